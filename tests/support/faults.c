/* Fails chosen system calls of the processes it is loaded into (LD_PRELOAD), on files below one directory.
 *
 * Which, is in a file that the test and those processes share: see Control in faults.py, which has the same layout.
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
#include <sys/mman.h>
#include <unistd.h>

enum { NOTHING, WRITE, SYNC, TRUNCATE, OPEN, LINK, RENAME, UNLINK, ALLOCATE, READ };

struct control {
    int call, error, skip, times, hits;
    char below[1004];
};
static struct control *control;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("GOEXFS_TEST_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *found = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED)
        control = found;
}

static int strikes_at(int call, const char *path) {
    if (strncmp(path, control->below, strlen(control->below)))
        return 0;
    if (__atomic_fetch_sub(&control->skip, 1, __ATOMIC_SEQ_CST) > 0)
        return 0;
    if (__atomic_fetch_sub(&control->times, 1, __ATOMIC_SEQ_CST) <= 0) {
        control->call = NOTHING;
        return 0;
    }
    __atomic_fetch_add(&control->hits, 1, __ATOMIC_SEQ_CST);
    errno = control->error;
    return 1;
}

static int strikes(int call, int fd) {
    char link[64], path[PATH_MAX];
    if (!control || control->call != call)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strikes_at(call, path);
}

static int strikes_name(int call, const char *path) {
    return control && control->call == call && strikes_at(call, path);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) { REAL(write); return strikes(WRITE, fd) ? -1 : real(fd, data, size); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite); return strikes(WRITE, fd) ? -1 : real(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64); return strikes(WRITE, fd) ? -1 : real(fd, data, size, at); }
ssize_t pread(int fd, void *data, size_t size, off_t at) { REAL(pread); return strikes(READ, fd) ? -1 : real(fd, data, size, at); }
ssize_t pread64(int fd, void *data, size_t size, off64_t at) { REAL(pread64); return strikes(READ, fd) ? -1 : real(fd, data, size, at); }
ssize_t preadv2(int fd, const struct iovec *v, int n, off_t at, int flags) { REAL(preadv2); return strikes(READ, fd) ? -1 : real(fd, v, n, at, flags); }
ssize_t preadv64v2(int fd, const struct iovec *v, int n, off64_t at, int flags) { REAL(preadv64v2); return strikes(READ, fd) ? -1 : real(fd, v, n, at, flags); }
int fsync(int fd) { REAL(fsync); return strikes(SYNC, fd) ? -1 : real(fd); }
int fdatasync(int fd) { REAL(fdatasync); return strikes(SYNC, fd) ? -1 : real(fd); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); return strikes(TRUNCATE, fd) ? -1 : real(fd, size); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); return strikes(TRUNCATE, fd) ? -1 : real(fd, size); }
int posix_fallocate(int fd, off_t at, off_t size) { REAL(posix_fallocate); return strikes(ALLOCATE, fd) ? control->error : real(fd, at, size); }
int posix_fallocate64(int fd, off64_t at, off64_t size) { REAL(posix_fallocate64); return strikes(ALLOCATE, fd) ? control->error : real(fd, at, size); }
int link(const char *old, const char *new) { REAL(link); return strikes_name(LINK, new) ? -1 : real(old, new); }
int linkat(int a, const char *old, int b, const char *new, int flags) { REAL(linkat); return strikes_name(LINK, new) ? -1 : real(a, old, b, new, flags); }
int rename(const char *old, const char *new) { REAL(rename); return strikes_name(RENAME, new) ? -1 : real(old, new); }
int renameat(int a, const char *old, int b, const char *new) { REAL(renameat); return strikes_name(RENAME, new) ? -1 : real(a, old, b, new); }
int unlink(const char *path) { REAL(unlink); return strikes_name(UNLINK, path) ? -1 : real(path); }
int unlinkat(int fd, const char *path, int flags) { REAL(unlinkat); return strikes_name(UNLINK, path) ? -1 : real(fd, path, flags); }

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return strikes_name(OPEN, path) ? -1 : real(path, flags, mode); \
    }
OPENING(open)
OPENING(open64)
