/* Make the n-th call that changes the disk below a folder fail, or end the process there; or give a process that runs
 * a full disk: below DISK_FAULTS_BELOW nothing can be written for as long as the file DISK_FAULTS_FULL is there.
 *
 * Preloaded into a process, it stands before libc: for Python, SQLite, Arrow, safetensors and faiss alike.
 * cc -shared -fPIC -O1 -o disk_faults.so disk_faults.c -ldl
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long target, counted;
static int fault, is_lasting;
static char hit_call[64];
static const char *full; /* the file that stands for a full disk */

/* fault: errno of the failure, or 0 to end the process; n 0: only count; lasting: all later calls fail as well. */
void disk_faults_arm(const char *folder, long n, int with, int lasting) {
    snprintf(root, sizeof root, "%s", folder);
    target = n, counted = 0, fault = with, is_lasting = lasting, hit_call[0] = 0;
}
void disk_faults_disarm(void) { root[0] = 0; }
long disk_faults_counted(void) { return counted; }
const char *disk_faults_hit(void) { return hit_call; }

__attribute__((constructor)) static void begin(void) {
    const char *below = getenv("DISK_FAULTS_BELOW");
    full = getenv("DISK_FAULTS_FULL");
    if (below && full) snprintf(root, sizeof root, "%s", below);
}

static int fails(const char *call) {
    /* As on a real one: what is there can be renamed, cut off and flushed, and only new content finds no room. */
    if (full) {
        if ((strcmp(call, "write") && strcmp(call, "mkdir")) || access(full, F_OK)) return 0;
        errno = ENOSPC;
        return 1;
    }
    counted++;
    if (!target || counted < target || (counted > target && !is_lasting)) return 0;
    if (counted == target) snprintf(hit_call, sizeof hit_call, "%s", call);
    if (!fault) _exit(137);
    errno = fault;
    return 1;
}
static int is_below(const char *path) { return root[0] && path && !strncmp(path, root, strlen(root)); }
static int is_file_below(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return is_below(path);
}
#define NEXT(result, name, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) next = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(name, flags_type) \
    int name(const char *path, int flags, ...) { \
        NEXT(int, #name, const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if ((flags & (O_CREAT | O_TRUNC)) && is_below(path) && fails("open")) return -1; \
        return next(path, flags, mode); }
OPEN(open, int)
OPEN(open64, int)
#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        NEXT(int, #name, int, const char *, int, ...); \
        va_list more; va_start(more, flags); mode_t mode = va_arg(more, mode_t); va_end(more); \
        if ((flags & (O_CREAT | O_TRUNC)) && is_below(path) && fails("open")) return -1; \
        return next(at, path, flags, mode); }
OPENAT(openat)
OPENAT(openat64)
#define FOPEN(name) \
    FILE *name(const char *path, const char *mode) { \
        NEXT(FILE *, #name, const char *, const char *); \
        if (strpbrk(mode, "wa+") && is_below(path) && fails("open")) return NULL; \
        return next(path, mode); }
FOPEN(fopen)
FOPEN(fopen64)

#define ON_FILE(result, name, call, parameters, arguments, types) \
    result name parameters { \
        static result (*next) types; \
        if (!next) next = (result(*) types)dlsym(RTLD_NEXT, #name); \
        if (is_file_below(file) && fails(call)) return -1; \
        return next arguments; }
ON_FILE(ssize_t, write, "write", (int file, const void *data, size_t n), (file, data, n), (int, const void *, size_t))
ON_FILE(ssize_t, pwrite, "write", (int file, const void *data, size_t n, off_t at), (file, data, n, at),
        (int, const void *, size_t, off_t))
ON_FILE(ssize_t, pwrite64, "write", (int file, const void *data, size_t n, off64_t at), (file, data, n, at),
        (int, const void *, size_t, off64_t))
ON_FILE(ssize_t, writev, "write", (int file, const struct iovec *parts, int n), (file, parts, n),
        (int, const struct iovec *, int))
ON_FILE(ssize_t, sendfile, "write", (int file, int from, off_t *at, size_t n), (file, from, at, n),
        (int, int, off_t *, size_t))
ON_FILE(ssize_t, sendfile64, "write", (int file, int from, off64_t *at, size_t n), (file, from, at, n),
        (int, int, off64_t *, size_t))
ON_FILE(int, fsync, "fsync", (int file), (file), (int))
ON_FILE(int, fdatasync, "fsync", (int file), (file), (int))
ON_FILE(int, ftruncate, "truncate", (int file, off_t n), (file, n), (int, off_t))
ON_FILE(int, ftruncate64, "truncate", (int file, off64_t n), (file, n), (int, off64_t))

size_t fwrite(const void *data, size_t size, size_t n, FILE *stream) {
    NEXT(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    if (is_file_below(fileno(stream)) && fails("write")) return 0;
    return next(data, size, n, stream);
}
int rename(const char *from, const char *to) {
    NEXT(int, "rename", const char *, const char *);
    if (is_below(to) && fails("rename")) return -1;
    return next(from, to);
}
int renameat(int from_at, const char *from, int to_at, const char *to) {
    NEXT(int, "renameat", int, const char *, int, const char *);
    if (is_below(to) && fails("rename")) return -1;
    return next(from_at, from, to_at, to);
}
int mkdir(const char *path, mode_t mode) {
    NEXT(int, "mkdir", const char *, mode_t);
    if (is_below(path) && fails("mkdir")) return -1;
    return next(path, mode);
}
int mkdirat(int at, const char *path, mode_t mode) {
    NEXT(int, "mkdirat", int, const char *, mode_t);
    if (is_below(path) && fails("mkdir")) return -1;
    return next(at, path, mode);
}
int chmod(const char *path, mode_t mode) {
    NEXT(int, "chmod", const char *, mode_t);
    if (is_below(path) && fails("chmod")) return -1;
    return next(path, mode);
}
