/* The interpreter linked into one file, with the C library: what single-file builds of it are. */
extern int Py_BytesMain(int argc, char **argv);

int main(int argc, char **argv) {
    return Py_BytesMain(argc, argv);
}
