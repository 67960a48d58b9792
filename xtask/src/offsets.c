/* The structs that tables of offsets are made of, as CPython's own headers declare them: for a build of which there is no debug
   information, but headers. */
#define Py_BUILD_CORE 1
#include <Python.h>
#include "internal/pycore_code.h"
#include "internal/pycore_dict.h"
#include "internal/pycore_frame.h"
#include "internal/pycore_gc.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_mimalloc.h"
#include "internal/pycore_obmalloc.h"
#include "internal/pycore_runtime.h"
#if __has_include("internal/pycore_interpframe_structs.h")
#include "internal/pycore_interpframe_structs.h"
#endif

/* Modules/_collectionsmodule.c has no header: the beginning of its structs, the same in 3.13 to 3.15. */
typedef struct BLOCK {
    struct BLOCK *leftlink;
    PyObject *data[64];
    struct BLOCK *rightlink;
} block;
struct dequeobject {
    PyObject_VAR_HEAD
    block *leftblock;
    block *rightblock;
    Py_ssize_t leftindex;
};

/* What a libpython exports to tell its version, and the same of its mimalloc. */
const unsigned long Py_Version = PY_VERSION_HEX;
const unsigned long Mimalloc_Version = MI_MALLOC_VERSION;
