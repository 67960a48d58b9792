/* Makes an ordinary python of the executable that a wheel of freeze-core brings: one with CPython linked in, meant to run a
   frozen application. Preloaded, it takes over before that begins. No C library of its own, so it serves glibc and musl, which
   does not pass arguments to constructors. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

extern int Py_BytesMain(int argc, char **argv) __attribute__((weak));
extern void Py_InitializeEx(int signals);
extern int PyRun_SimpleStringFlags(const char *code, void *flags);
extern int Py_FinalizeEx(void);

/* What an executable without the command line's main does: `-c CODE` or a script, after options that are left out. */
static const char command_line[] =
    "import os, sys, __main__\n"
    "sys.argv = open('/proc/self/cmdline').read().split('\\0')[1:-1]\n"
    "while sys.argv[0] in ('-I', '-u', '-B'): del sys.argv[0]\n"
    "code = sys.argv.pop(1) if sys.argv[0] == '-c' else open(sys.argv[0]).read()\n"
    "name = '<string>' if sys.argv[0] == '-c' else sys.argv[0]\n"
    "sys.path.insert(0, '' if sys.argv[0] == '-c' else os.path.dirname(os.path.abspath(name)))\n"
    "__main__.__file__ = name\n"
    "exec(compile(code, name, 'exec'), __main__.__dict__)\n";

static char text[1 << 17];
static char *arguments[1 << 10];

__attribute__((constructor)) static void run(void) {
    size_t length = 0, room = sizeof text - 1;
    ssize_t got;
    int count = 0, file = open("/proc/self/cmdline", O_RDONLY);
    while (length < room && (got = read(file, text + length, room - length)) > 0)
        length += got;
    close(file);
    for (size_t at = 0; at < length && count < (1 << 10) - 1; at++)
        if (at == 0 || text[at - 1] == 0)
            arguments[count++] = text + at;
    unsetenv("LD_PRELOAD");
    if (Py_BytesMain)
        exit(Py_BytesMain(count, arguments));
    Py_InitializeEx(1);
    int failed = PyRun_SimpleStringFlags(command_line, NULL);
    exit(Py_FinalizeEx() || failed);
}
