"""ttbert: convert BERT checkpoints for Tenstorrent cards, share them in a content-addressed cache, and run them."""

__version__ = "0.1.0"
