/* A program that is no Python and loads one: host LIBPYTHON SCRIPT */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
    void *python = argc == 3 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
    FILE *script = argc == 3 ? fopen(argv[2], "r") : NULL;
    if (!python || !script) {
        fprintf(stderr, "%s cannot be loaded, or no script: %s\n", argv[1], dlerror());
        return 2;
    }
    void (*start)(int) = (void (*)(int))dlsym(python, "Py_InitializeEx");
    int (*run)(FILE *, const char *) = (int (*)(FILE *, const char *))dlsym(python, "PyRun_SimpleFile");
    start(0);
    return run(script, argv[2]) != 0;
}
