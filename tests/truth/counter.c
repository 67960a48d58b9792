/*
 * Ground truth from inside: counts what CPython's allocator does, by wrapping its three domains with the public
 * PyMem_SetAllocator, and on request keeps its own account of live blocks by line.
 *
 * A request of the obj or mem domain above 512 bytes is passed on to the raw domain; only the outermost call counts.
 * Loaded by truth.py through ctypes. Needs no Python headers: what it uses is declared here.
 *
 * The account by line reads CPython 3.11's frames (Include/internal/pycore_frame.h, Include/cpython/code.h and pystate.h of
 * 3.11). Unlike tracemalloc it sees blocks only where the allocator does: an object taken from a free list keeps the line
 * of the allocation.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *block, size_t size);
    void (*free)(void *ctx, void *block);
} PyMemAllocatorEx;

extern void PyMem_GetAllocator(int domain, PyMemAllocatorEx *allocator);
extern void PyMem_SetAllocator(int domain, PyMemAllocatorEx *allocator);
extern void *PyGILState_GetThisThreadState(void);
extern int PyCode_Addr2Line(void *code, int offset);
extern const char *PyUnicode_AsUTF8(void *text);

enum { RAW, MEM, OBJ, DOMAINS };
static const char *const NAMES[DOMAINS] = {"raw", "mem", "obj"};

static PyMemAllocatorEx original[DOMAINS];
static struct {
    /* `realloc_new` is realloc(NULL, n), an allocation; `failed` requests change nothing. */
    atomic_ulong malloc, calloc, realloc, realloc_new, free, failed;
} counts[DOMAINS];
static atomic_int active;
static int by_line;
static __thread int depth;

/* The account by line. One lock: it is a test. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

typedef struct {
    char *file;
    int line;
    unsigned long live_bytes, live_blocks, allocated_blocks;
} Line;

typedef struct {
    uintptr_t block; /* 0: empty, 1: removed */
    size_t size;
    uint32_t line;
} Live;

#define LINE_SLOTS (1u << 16)
#define LIVE_SLOTS (1u << 22)
static Line *lines;
static Live *live;

static uint32_t line_slot(const char *file, int line)
{
    uint32_t hash = 2166136261u ^ (uint32_t)line;
    for (const char *c = file; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    for (uint32_t i = hash % LINE_SLOTS;; i = (i + 1) % LINE_SLOTS) {
        if (!lines[i].file) {
            lines[i].file = strdup(file);
            lines[i].line = line;
            return i;
        }
        if (lines[i].line == line && !strcmp(lines[i].file, file))
            return i;
    }
}

#define FIELD(base, offset, type) (*(type *)((char *)(base) + (offset)))

/* The innermost Python line of this thread, as traceback and tracemalloc of 3.11 see it. */
static uint32_t current_line(void)
{
    void *tstate = PyGILState_GetThisThreadState();
    void *cframe = tstate ? FIELD(tstate, 56, void *) : NULL;
    for (void *frame = cframe ? FIELD(cframe, 8, void *) : NULL; frame; frame = FIELD(frame, 48, void *)) {
        char *code = FIELD(frame, 32, char *), *instr = FIELD(frame, 56, char *), *first = code + 184;
        int generator = FIELD(frame, 69, char) == 1;
        if (!generator && instr < first + 2 * FIELD(code, 168, int))
            continue; /* not begun: its arguments are still being set up */
        return line_slot(PyUnicode_AsUTF8(FIELD(code, 112, void *)), PyCode_Addr2Line(code, (int)(instr - first)));
    }
    return line_slot("<no frame>", 0);
}

static void forget(void *block)
{
    for (uint32_t i = ((uintptr_t)block >> 4) * 2654435761u % LIVE_SLOTS; live[i].block; i = (i + 1) % LIVE_SLOTS) {
        if (live[i].block != (uintptr_t)block)
            continue;
        lines[live[i].line].live_bytes -= live[i].size;
        lines[live[i].line].live_blocks--;
        live[i].block = 1;
        return;
    }
}

static void remember(void *block, size_t size)
{
    uint32_t line = current_line(), i = ((uintptr_t)block >> 4) * 2654435761u % LIVE_SLOTS;
    while (live[i].block > 1)
        i = (i + 1) % LIVE_SLOTS;
    live[i] = (Live){(uintptr_t)block, size, line};
    lines[line].live_bytes += size;
    lines[line].live_blocks++;
    lines[line].allocated_blocks++;
}

static void moved(void *old, void *block, size_t size)
{
    if (!by_line)
        return;
    pthread_mutex_lock(&lock);
    if (old)
        forget(old);
    if (block)
        remember(block, size);
    pthread_mutex_unlock(&lock);
}

#define OUTERMOST (depth == 1 && atomic_load_explicit(&active, memory_order_relaxed))
#define ADD(domain, what) atomic_fetch_add_explicit(&counts[domain].what, 1, memory_order_relaxed)

static void *count_malloc(void *ctx, size_t size)
{
    int domain = (int)(intptr_t)ctx;
    depth++;
    void *block = original[domain].malloc(original[domain].ctx, size);
    if (OUTERMOST) {
        block ? ADD(domain, malloc) : ADD(domain, failed);
        if (block)
            moved(NULL, block, size);
    }
    depth--;
    return block;
}

static void *count_calloc(void *ctx, size_t number, size_t size)
{
    int domain = (int)(intptr_t)ctx;
    depth++;
    void *block = original[domain].calloc(original[domain].ctx, number, size);
    if (OUTERMOST) {
        block ? ADD(domain, calloc) : ADD(domain, failed);
        if (block)
            moved(NULL, block, number * size);
    }
    depth--;
    return block;
}

static void *count_realloc(void *ctx, void *old, size_t size)
{
    int domain = (int)(intptr_t)ctx;
    depth++;
    void *block = original[domain].realloc(original[domain].ctx, old, size);
    if (OUTERMOST) {
        if (!block)
            ADD(domain, failed);
        else if (old)
            ADD(domain, realloc);
        else
            ADD(domain, realloc_new);
        if (block)
            moved(old, block, size);
    }
    depth--;
    return block;
}

static void count_free(void *ctx, void *block)
{
    int domain = (int)(intptr_t)ctx;
    depth++;
    if (block && OUTERMOST) {
        ADD(domain, free);
        moved(block, NULL, 0);
    }
    original[domain].free(original[domain].ctx, block);
    depth--;
}

void leaktrace_install(int keep_lines)
{
    by_line = keep_lines;
    if (by_line) {
        lines = calloc(LINE_SLOTS, sizeof *lines);
        live = calloc(LIVE_SLOTS, sizeof *live);
    }
    for (int domain = 0; domain < DOMAINS; domain++) {
        PyMemAllocatorEx wrapper = {(void *)(intptr_t)domain, count_malloc, count_calloc, count_realloc, count_free};
        PyMem_GetAllocator(domain, &original[domain]);
        PyMem_SetAllocator(domain, &wrapper);
    }
}

void leaktrace_start(void)
{
    atomic_store(&active, 1);
}

void leaktrace_stop(void)
{
    atomic_store(&active, 0);
}

/* Writes the counts, and the account by line, as JSON. File names are taken as they are: the workload's need no escapes. */
int leaktrace_dump(const char *path)
{
    FILE *file = fopen(path, "w");
    if (!file)
        return -1;
    fputs("{\"domains\":{", file);
    for (int domain = 0; domain < DOMAINS; domain++)
        fprintf(file,
                "%s\"%s\":{\"malloc\":%lu,\"calloc\":%lu,\"realloc\":%lu,\"realloc_new\":%lu,\"free\":%lu,\"failed\":%lu}",
                domain ? "," : "", NAMES[domain], counts[domain].malloc, counts[domain].calloc, counts[domain].realloc,
                counts[domain].realloc_new, counts[domain].free, counts[domain].failed);
    fputs("},\"lines\":{", file);
    const char *comma = "";
    for (uint32_t i = 0; lines && i < LINE_SLOTS; i++) {
        if (!lines[i].file)
            continue;
        fprintf(file, "%s\"%s:%d\":{\"bytes\":%lu,\"blocks\":%lu,\"allocated\":%lu}", comma, lines[i].file,
                lines[i].line, lines[i].live_bytes, lines[i].live_blocks, lines[i].allocated_blocks);
        comma = ",";
    }
    fputs("}}\n", file);
    return fclose(file) ? -1 : 0;
}
