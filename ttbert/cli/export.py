"""`ttbert cache export`: a model as the files of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..console import Progress, say, show, tell
from ..errors import InputError
from ..text import count_text, size_text
from .options import cache_option, json_option, progress_option, space_option

if TYPE_CHECKING:
    from ..cache.places import Places


@click.command("export")
@click.argument("ref")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--layout", type=click.Choice(("tt-metal",)), required=True, help="Whose files: tt-metal's BERT-large demo.")
@space_option
@progress_option
@cache_option
@json_option
def export_command(ref: str, folder: Path, layout: str, no_space_check: bool, places: Places, as_json: bool) -> None:
    """Copy the tensors of REF to DIR, under the names that another program looks for.

    tt-metal's demo (models/demos/metal_BERT_large_11) takes its weights from
    /mnt/MLPerf/tt_dnn-models/tt/Bert/phiyodr/bert-large-finetuned-squad2, if that folder is there. Export to it, or mount or
    link DIR there. The files are copies: in the cache several tensors lie in one blob.

    \b
    ttbert cache export phiyodr/bert-large-finetuned-squad2 ./tt-cache --layout tt-metal
    """
    from ..cache.census import look_up
    from ..export import export_for_tt_metal
    from ..runtime.loader import CachedModel

    cache = places.open()
    found = look_up(cache, ref)
    cached = cache.resolve(found.ref)
    if cached is None:
        raise InputError(f"{found.ref} was removed just now", "see `ttbert cache ls`")
    model = CachedModel(cache, cached)
    tensors = cached.manifest.tensors
    with Progress("exporting", len(tensors), sum(entry.size for entry in tensors)) as progress:
        export = export_for_tt_metal(model, folder, not no_space_check, lambda entry: progress.advance(entry.size))
    if export.remark:
        tell(f"note: {export.remark}")
    if as_json:
        document = {"ref": str(found.ref), "manifest": str(cached.digest), "layout": layout, "folder": str(folder)}
        show({**document, "written": export.written, "kept": export.kept, "bytes": export.size, "remark": export.remark})
        return
    kept = f", {export.kept} were there already" if export.kept else ""
    say(f"{found.ref}: {count_text(export.written, 'file')} written to {folder}{kept}, {size_text(export.size)} in all")
