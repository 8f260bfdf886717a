/* Packs float32 matrices as TT-NN stores them: rows of bfloat16, or 32 x 32 tiles of bfloat16, bfloat8_b or bfloat4_b.
 *
 * The same bytes as `packing.py` makes with numpy; that module says what they mean. Here each tile is read, rounded and
 * written while it is in the processor's cache, straight from an array of any strides, so that a transposed weight is
 * never copied. The GIL is released meanwhile.
 *
 * The loops that do the work run over the rows of a tile, which lie side by side in it, and have no branches, so that a
 * compiler makes vectors of them. What they make of neighbours in a row is put together in words of 32 bits, so that no byte
 * has to find its place alone.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tiles are written in words whose lowest byte comes first; numpy packs on other processors"
#endif

enum { TILE = 32, FACE = 16, BLOCKS = TILE * TILE / FACE };

/* Compiled for processors with AVX-512, with AVX2, and for all others; the C library chooses when the module is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#define INLINE static inline __attribute__((always_inline))
#else
#define FOR_EACH_PROCESSOR
#define INLINE static inline
#endif

#if defined(__GNUC__)
#define FETCH(address) __builtin_prefetch(address)
#else
#define FETCH(address) ((void)(address))
#endif

enum { LINE = 64, AHEAD = 2 * TILE * 4 }; /* bytes of a cache line, and of two tiles of float32 down a column */

typedef struct {
    const char *data;
    Py_ssize_t rows, columns;
    Py_ssize_t row_stride, column_stride; /* in bytes */
} Matrix;

/* A tile as float32 bits, column by column. */
typedef uint32_t Tile[TILE][TILE];

/* What is stored of the left or the right half of a tile: the words of a row are words[0][row], words[1][row], ... */
enum { MOST_WORDS = FACE / 2 };
typedef uint32_t Words[MOST_WORDS][TILE];

typedef enum { BFLOAT16_ROWS, BFLOAT16_TILES, BFLOAT8_B_TILES, BFLOAT4_B_TILES, FORMATS } Format;

static const Py_ssize_t tile_bytes[FORMATS] = {0, 2 * TILE * TILE, BLOCKS + TILE * TILE, BLOCKS + TILE * TILE / 2};

/* Zeros where the matrix has ended. */
INLINE void read_tile(const Matrix *matrix, Py_ssize_t top, Py_ssize_t left, Tile tile) {
    const char *corner = matrix->data + top * matrix->row_stride + left * matrix->column_stride;
    int rows = matrix->rows - top < TILE ? (int)(matrix->rows - top) : TILE;
    int columns = matrix->columns - left < TILE ? (int)(matrix->columns - left) : TILE;
    if (rows == TILE && columns == TILE && matrix->row_stride == 4) {
        for (int column = 0; column < TILE; column++) {
            const char *source = corner + column * matrix->column_stride;
            memcpy(tile[column], source, sizeof tile[column]);
            /* Each of these columns is in a page of its own: more streams than a processor sees coming. */
            FETCH(source + AHEAD);
            FETCH(source + AHEAD + LINE);
        }
        return;
    }
    memset(tile, 0, sizeof(Tile));
    for (int row = 0; row < rows; row++) {
        for (int column = 0; column < columns; column++) {
            memcpy(&tile[column][row], corner + row * matrix->row_stride + column * matrix->column_stride, 4);
        }
    }
}

INLINE uint32_t exponent_of(uint32_t bits) {
    return bits >> 23 & 0xff;
}

INLINE uint32_t larger(uint32_t one, uint32_t other) {
    return one > other ? one : other;
}

/* All bits where something holds, none where it does not. */
INLINE uint32_t all_if(int holds) {
    return -(uint32_t)holds;
}

/* What writes values gives the largest of their exponents: this one is of infinity and of NaN. */
enum { NOT_FINITE = 0xff };

/* Where a row's left or right half begins, counted in halves: a tile is stored in four faces, one after another. */
INLINE int place_of(int row, int side) {
    return (row / FACE * 2 + side) * FACE + row % FACE;
}

INLINE void write_words(Words words, int count, int side, char *target) {
    for (int row = 0; row < TILE; row++) {
        char *place = target + place_of(row, side) * count * sizeof words[0][row];
        for (int i = 0; i < count; i++) {
            memcpy(place + i * sizeof words[i][row], &words[i][row], sizeof words[i][row]);
        }
    }
}

INLINE uint32_t to_bfloat16(uint32_t bits) {
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

INLINE uint32_t write_bfloat16(Tile tile, char *target) {
    uint32_t largest = 0;
    for (int column = 0; column < TILE; column++) {
        for (int row = 0; row < TILE; row++) {
            largest = larger(largest, exponent_of(tile[column][row]));
        }
    }
    for (int side = 0; side < 2; side++) {
        Words words;
        for (int i = 0; i < MOST_WORDS; i++) {
            const uint32_t *first = tile[side * FACE + 2 * i], *second = tile[side * FACE + 2 * i + 1];
            for (int row = 0; row < TILE; row++) {
                words[i][row] = to_bfloat16(first[row]) | to_bfloat16(second[row]) << 16;
            }
        }
        write_words(words, MOST_WORDS, side, target);
    }
    return largest;
}

INLINE uint32_t write_blocks(Tile tile, char *target, int bits) {
    const uint32_t dropped = 24 - bits, half = 1u << (dropped - 1), most = (1u << bits) - 1;
    uint32_t largest = 0;
    const int values = 32 / (bits + 1); /* in a word */
    for (int side = 0; side < 2; side++) {
        const uint32_t(*columns)[TILE] = (const uint32_t(*)[TILE])tile[side * FACE];
        uint32_t shared[TILE] = {0};
        for (int column = 0; column < FACE; column++) {
            for (int row = 0; row < TILE; row++) {
                shared[row] = larger(shared[row], exponent_of(columns[column][row]));
            }
        }
        for (int row = 0; row < TILE; row++) {
            largest = larger(largest, shared[row]);
            target[place_of(row, side)] = (char)shared[row];
        }
        Words words;
        for (int word = 0; word < FACE / values; word++) {
            uint32_t line[TILE] = {0};
            for (int i = 0; i < values; i++) {
                const uint32_t *column = columns[word * values + i];
                for (int row = 0; row < TILE; row++) {
                    uint32_t value = column[row], exponent = exponent_of(value), distance = shared[row] - exponent;
                    uint32_t mantissa = ((value & 0x7fffff) | 0x800000) >> (distance < 24 ? distance : 24);
                    mantissa = (mantissa + half - 1 + (mantissa >> dropped & 1)) >> dropped;
                    mantissa = mantissa < most ? mantissa : most;
                    mantissa &= all_if(exponent > 0);
                    mantissa |= value >> 31 << bits & all_if(mantissa > 0);
                    line[row] |= mantissa << i * (bits + 1);
                }
            }
            memcpy(words[word], line, sizeof line);
        }
        write_words(words, FACE / values, side, target + BLOCKS);
    }
    return largest;
}

FOR_EACH_PROCESSOR
static uint32_t pack_tiles(const Matrix *matrix, char *target, Format format) {
    uint32_t largest = 0;
    Py_ssize_t down = (matrix->rows + TILE - 1) / TILE, across = (matrix->columns + TILE - 1) / TILE;
    int is_transposed = matrix->row_stride < matrix->column_stride;
    for (Py_ssize_t i = 0; i < down * across; i++) {
        /* In the order of the source. */
        Py_ssize_t row = is_transposed ? i % down : i / across, column = is_transposed ? i / down : i % across;
        char *place = target + (row * across + column) * tile_bytes[format];
        Tile tile;
        read_tile(matrix, row * TILE, column * TILE, tile);
        if (format == BFLOAT16_TILES) {
            largest = larger(largest, write_bfloat16(tile, place));
        } else if (format == BFLOAT8_B_TILES) {
            largest = larger(largest, write_blocks(tile, place, 7));
        } else {
            largest = larger(largest, write_blocks(tile, place, 3));
        }
    }
    return largest;
}

INLINE uint32_t pack_row(const char *source, Py_ssize_t columns, Py_ssize_t stride, char *target) {
    uint32_t largest = 0;
    for (Py_ssize_t column = 0; column < columns; column++) {
        uint32_t bits;
        memcpy(&bits, source + column * stride, 4);
        uint16_t rounded = to_bfloat16(bits);
        memcpy(target + 2 * column, &rounded, 2);
        largest = larger(largest, exponent_of(bits));
    }
    return largest;
}

FOR_EACH_PROCESSOR
static uint32_t pack_rows(const Matrix *matrix, char *target) {
    uint32_t largest = 0;
    for (Py_ssize_t row = 0; row < matrix->rows; row++, target += 2 * matrix->columns) {
        const char *source = matrix->data + row * matrix->row_stride;
        /* Two calls, since a compiler makes vectors of what lies side by side. */
        uint32_t found = matrix->column_stride == 4 ? pack_row(source, matrix->columns, 4, target)
                                                    : pack_row(source, matrix->columns, matrix->column_stride, target);
        largest = larger(largest, found);
    }
    return largest;
}

static Py_ssize_t packed_bytes(Py_ssize_t rows, Py_ssize_t columns, Format format) {
    if (format == BFLOAT16_ROWS) {
        return 2 * rows * columns;
    }
    return (rows + TILE - 1) / TILE * ((columns + TILE - 1) / TILE) * tile_bytes[format];
}

static PyObject *pack(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *array, *buffer, *result = NULL;
    int format;
    if (!PyArg_ParseTuple(arguments, "OOi", &array, &buffer, &format)) {
        return NULL;
    }
    if (format < 0 || format >= FORMATS) {
        PyErr_SetString(PyExc_ValueError, "there is no such format");
        return NULL;
    }
    Py_buffer source, target;
    if (PyObject_GetBuffer(array, &source, PyBUF_STRIDED_RO | PyBUF_FORMAT)) {
        return NULL;
    }
    if (PyObject_GetBuffer(buffer, &target, PyBUF_WRITABLE)) {
        PyBuffer_Release(&source);
        return NULL;
    }
    if (source.ndim != 3 || strcmp(source.format, "f")) {
        PyErr_SetString(PyExc_ValueError, "the array is not of float32 in three dimensions");
    } else if (target.len != source.shape[0] * packed_bytes(source.shape[1], source.shape[2], (Format)format)) {
        PyErr_SetString(PyExc_ValueError, "the buffer is not of the size of the packed array");
    } else {
        const Py_ssize_t *shape = source.shape, *strides = source.strides;
        char *place = target.buf;
        uint32_t largest = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < shape[0]; i++) {
            Matrix matrix = {(const char *)source.buf + i * strides[0], shape[1], shape[2], strides[1], strides[2]};
            if (format == BFLOAT16_ROWS) {
                largest = larger(largest, pack_rows(&matrix, place));
            } else {
                largest = larger(largest, pack_tiles(&matrix, place, (Format)format));
            }
            place += target.len / shape[0];
        }
        Py_END_ALLOW_THREADS
        result = PyBool_FromLong(largest < NOT_FINITE);
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&source);
    return result;
}

static PyMethodDef methods[] = {
    {"pack", pack, METH_VARARGS,
     "pack(array, buffer, format)\n\nPack a float32 array (matrices, rows, columns) of any strides into a buffer of just the "
     "right size; whether all values are finite.\n`format` is 0 for rows of bfloat16, and 1, 2, 3 for tiles of bfloat16, "
     "bfloat8_b, bfloat4_b."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_pack", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__pack(void) {
    return PyModuleDef_Init(&definition);
}
