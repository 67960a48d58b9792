/* The structs that tables of offsets are made of, as CPython's own headers declare them: for a build of which there is no debug
   information, but headers. */
#define Py_BUILD_CORE 1
#include <Python.h>
#include "internal/pycore_code.h"
#include "internal/pycore_dict.h"
#include "internal/pycore_frame.h"
#include "internal/pycore_gc.h"
#include "internal/pycore_interp.h"
#include "internal/pycore_obmalloc.h"
#include "internal/pycore_runtime.h"
#if __has_include("internal/pycore_interpframe_structs.h")
#include "internal/pycore_interpframe_structs.h"
#endif

/* What a libpython exports to tell its version. */
const unsigned long Py_Version = PY_VERSION_HEX;
