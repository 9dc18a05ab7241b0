/*
 * Lets chosen system calls of one process fail, of those that work below certain folders, or kills
 * the process right before or right after one.
 *
 * For LD_PRELOAD. FAULT_DIRS names the folders, with colons between them; FAULT_CONTROL a file that
 * holds a struct control, which the test changes while the process runs and the next one continues;
 * FAULT_LOG a file that gets a line for each call that failed, or for each call at all while none is
 * to fail: its number, name, possible errors and path. Programs that the process starts are left alone.
 *
 * A kill strikes only what leaves something behind: changes of files, and the start of a program.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What can become of a call: ENOSPC or EDQUOT, EIO, EACCES, EMFILE. Each has those it can really have. */
enum { SPACE = 1, IO = 2, ACCESS = 4, FILES = 8 };

/* A call that leaves something behind. */
enum { STEP = 16 };

/* When the process is killed. */
enum { BEFORE = 1, AFTER = 2 };

struct control {
    int64_t error; /* The errno of the calls that fail; 0 while none is to. */
    int64_t first; /* The number of the first call that fails, of those that can fail so. */
    int64_t last;  /* The number of the last. */
    int64_t count; /* The calls so far. */
    int64_t kill;  /* BEFORE or AFTER the first call, of the steps; 0 while none is to be killed. */
};

static struct control *control;
static char folders[PATH_MAX];
static int log_fd = -1;
static pid_t owner;

/* Whether the process dies once the call that is under way in this thread has returned. */
static __thread int doomed;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULT_CONTROL"), *log = getenv("FAULT_LOG");
    const char *dirs = getenv("FAULT_DIRS");
    if (path == NULL || log == NULL || dirs == NULL)
        return;
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || log_fd < 0 || shared == MAP_FAILED) {
        perror("faults");
        _exit(99);
    }
    syscall(SYS_close, fd);
    snprintf(folders, sizeof folders, "%s", dirs);
    owner = getpid();
    control = shared;
    /* What this process starts finds none of it in its environment. */
    unsetenv("LD_PRELOAD");
    unsetenv("FAULT_CONTROL");
    unsetenv("FAULT_LOG");
    unsetenv("FAULT_DIRS");
}

/* Write the absolute path of a descriptor, or of a name below it. */
static void find(int fd, const char *name, char *path, size_t size)
{
    char link[64];
    size_t length = 0;
    if (name == NULL || name[0] != '/') {
        if (fd == AT_FDCWD)
            snprintf(link, sizeof link, "/proc/self/cwd");
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t found = readlink(link, path, size - 1);
        length = found < 0 ? 0 : found;
    }
    if (name != NULL && name[0] != '\0')
        snprintf(path + length, size - length, "%s%s", length ? "/" : "", name);
    else
        path[length] = '\0';
}

static int is_below_folders(const char *path)
{
    for (const char *folder = folders; *folder != '\0';) {
        size_t length = strcspn(folder, ":");
        if (strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == '\0'))
            return 1;
        folder += length + (folder[length] == ':');
    }
    return 0;
}

static int can_fail_so(int64_t error, int possible)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT: return possible & SPACE;
    case EIO: return possible & IO;
    case EACCES: return possible & ACCESS;
    case EMFILE: return possible & FILES;
    default: return 1;
    }
}

/* Nothing of the process runs any more, not even what the C library does at an end. */
static void die(void)
{
    for (;;)
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
}

/* Count a call that matters; whether it has to fail, with errno set then. */
static int strike(const char *call, const char *path, int possible, int64_t error, int64_t kill)
{
    char line[PATH_MAX + 128];
    int before = errno;
    int64_t number = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
    int struck = control->first <= number && number <= control->last;
    if (struck || error == 0) {
        int length = snprintf(line, sizeof line, "%lld %s %s%s%s%s %.*s\n", (long long)number, call,
                              possible & SPACE ? "ENOSPC,EDQUOT," : "", possible & IO ? "EIO," : "",
                              possible & ACCESS ? "EACCES," : "", possible & FILES ? "EMFILE," : "",
                              PATH_MAX, path);
        syscall(SYS_write, log_fd, line, length);
    }
    if (struck && kill == BEFORE)
        die();
    doomed = struck && kill == AFTER;
    int failing = struck && kill == 0 && error != 0;
    errno = failing ? error : before;
    return failing;
}

/* Whether a call on a name, maybe in the folder of a descriptor, or on a descriptor has to fail. */
static int fails(const char *call, int fd, const char *name, int possible)
{
    int before = errno;
    char path[PATH_MAX];
    if (control == NULL || getpid() != owner)
        return 0;
    int64_t kill = __atomic_load_n(&control->kill, __ATOMIC_SEQ_CST);
    int64_t error = __atomic_load_n(&control->error, __ATOMIC_SEQ_CST);
    if (kill ? !(possible & STEP) : !can_fail_so(error, possible))
        return 0;
    find(fd, name, path, sizeof path);
    errno = before;
    return is_below_folders(path) && strike(call, path, possible, error, kill);
}

/* Count the start of a program, or what works on all files. */
static void begins(const char *call, const char *what)
{
    if (control == NULL || getpid() != owner)
        return;
    int64_t kill = __atomic_load_n(&control->kill, __ATOMIC_SEQ_CST);
    if (kill)
        strike(call, what, 0, 0, kill);
}

static void begins_program(const char *call, char *const arguments[])
{
    char line[PATH_MAX] = "";
    size_t length = 0;
    for (int i = 0; arguments[i] != NULL && length < sizeof line - 1; i++) {
        snprintf(line + length, sizeof line - length, "%s%s", i ? " " : "", arguments[i]);
        length += strlen(line + length);
    }
    line[strcspn(line, "\n")] = '\0';
    begins(call, line);
}

/* A call has returned. The child of a fork is another process. */
static void returned(void)
{
    if (doomed && getpid() == owner)
        die();
    doomed = 0;
}

#define REAL(name)                                                                                 \
    static __typeof__(&name) real;                                                                 \
    if (real == NULL)                                                                              \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A call that works on a name, and maybe in the folder of a descriptor, or on a descriptor. */
#define CALL(type, failed, name, parameters, arguments, fd, path, possible)                        \
    type name parameters                                                                           \
    {                                                                                              \
        REAL(name);                                                                                \
        if (fails(#name, fd, path, possible))                                                      \
            return failed;                                                                         \
        type result = real arguments;                                                              \
        returned();                                                                                \
        return result;                                                                             \
    }

#define OPEN(name, parameters, arguments, fd)                                                      \
    int name parameters                                                                            \
    {                                                                                              \
        REAL(name);                                                                                \
        mode_t mode = 0;                                                                           \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                       \
            va_list more;                                                                          \
            va_start(more, flags);                                                                 \
            mode = va_arg(more, mode_t);                                                           \
            va_end(more);                                                                          \
        }                                                                                          \
        int possible = IO | ACCESS | FILES | (flags & O_CREAT ? SPACE : 0);                        \
        if (flags & (O_CREAT | O_TRUNC))                                                           \
            possible |= STEP;                                                                      \
        if (fails(#name, fd, path, possible))                                                      \
            return -1;                                                                             \
        int result = real arguments;                                                               \
        returned();                                                                                \
        return result;                                                                             \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(openat, (int dir, const char *path, int flags, ...), (dir, path, flags, mode), dir)
OPEN(openat64, (int dir, const char *path, int flags, ...), (dir, path, flags, mode), dir)

/* What a Python that was built with _FORTIFY_SOURCE calls. */
int __open64_2(const char *path, int flags);
CALL(int, -1, __open64_2, (const char *path, int flags), (path, flags), AT_FDCWD, path,
     IO | ACCESS | FILES)

CALL(ssize_t, -1, read, (int fd, void *data, size_t size), (fd, data, size), fd, NULL, IO)
CALL(ssize_t, -1, pread, (int fd, void *data, size_t size, off_t at), (fd, data, size, at), fd,
     NULL, IO)
CALL(ssize_t, -1, pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at), fd,
     NULL, IO)
CALL(ssize_t, -1, write, (int fd, const void *data, size_t size), (fd, data, size), fd, NULL,
     SPACE | IO | STEP)
CALL(ssize_t, -1, writev, (int fd, const struct iovec *data, int count), (fd, data, count), fd,
     NULL, SPACE | IO | STEP)
CALL(ssize_t, -1, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at),
     fd, NULL, SPACE | IO | STEP)
CALL(ssize_t, -1, pwrite64, (int fd, const void *data, size_t size, off64_t at),
     (fd, data, size, at), fd, NULL, SPACE | IO | STEP)
CALL(int, -1, fsync, (int fd), (fd), fd, NULL, SPACE | IO | STEP)
CALL(int, -1, fdatasync, (int fd), (fd), fd, NULL, SPACE | IO | STEP)
CALL(int, -1, ftruncate, (int fd, off_t size), (fd, size), fd, NULL, IO | STEP)
CALL(int, -1, ftruncate64, (int fd, off64_t size), (fd, size), fd, NULL, IO | STEP)
CALL(int, -1, fchmod, (int fd, mode_t mode), (fd, mode), fd, NULL, IO | STEP)
CALL(int, -1, fchown, (int fd, uid_t user, gid_t group), (fd, user, group), fd, NULL, IO | STEP)
CALL(int, -1, chmod, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path,
     IO | ACCESS | STEP)

CALL(int, -1, rename, (const char *path, const char *to), (path, to), AT_FDCWD, path,
     SPACE | IO | ACCESS | STEP)
CALL(int, -1, renameat, (int dir, const char *path, int other, const char *to),
     (dir, path, other, to), dir, path, SPACE | IO | ACCESS | STEP)
CALL(int, -1, link, (const char *path, const char *to), (path, to), AT_FDCWD, path,
     SPACE | IO | ACCESS | STEP)
CALL(int, -1, linkat, (int dir, const char *path, int other, const char *to, int flags),
     (dir, path, other, to, flags), dir, path, SPACE | IO | ACCESS | STEP)
CALL(int, -1, symlink, (const char *to, const char *path), (to, path), AT_FDCWD, path,
     SPACE | IO | ACCESS | STEP)
CALL(int, -1, symlinkat, (const char *to, int dir, const char *path), (to, dir, path), dir, path,
     SPACE | IO | ACCESS | STEP)
CALL(int, -1, truncate64, (const char *path, off64_t size), (path, size), AT_FDCWD, path,
     IO | ACCESS | STEP)
CALL(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path,
     SPACE | IO | ACCESS | STEP)
CALL(int, -1, mkdirat, (int dir, const char *path, mode_t mode), (dir, path, mode), dir, path,
     SPACE | IO | ACCESS | STEP)
CALL(int, -1, unlink, (const char *path), (path), AT_FDCWD, path, IO | ACCESS | STEP)
CALL(int, -1, unlinkat, (int dir, const char *path, int flags), (dir, path, flags), dir, path,
     IO | ACCESS | STEP)
CALL(int, -1, rmdir, (const char *path), (path), AT_FDCWD, path, IO | ACCESS | STEP)

CALL(int, -1, stat64, (const char *path, struct stat64 *to), (path, to), AT_FDCWD, path, IO | ACCESS)
CALL(int, -1, lstat64, (const char *path, struct stat64 *to), (path, to), AT_FDCWD, path,
     IO | ACCESS)
CALL(int, -1, fstatat64, (int dir, const char *path, struct stat64 *to, int flags),
     (dir, path, to, flags), dir, path, IO | ACCESS)
CALL(int, -1, fstat64, (int fd, struct stat64 *to), (fd, to), fd, NULL, IO)
CALL(int, -1, statvfs64, (const char *path, struct statvfs64 *to), (path, to), AT_FDCWD, path,
     IO | ACCESS)
CALL(int, -1, fstatvfs64, (int fd, struct statvfs64 *to), (fd, to), fd, NULL, IO)

CALL(DIR *, NULL, opendir, (const char *path), (path), AT_FDCWD, path, IO | ACCESS | FILES)
CALL(struct dirent64 *, NULL, readdir64, (DIR *folder), (folder), dirfd(folder), NULL, IO)

int fcntl64(int fd, int what, ...)
{
    REAL(fcntl64);
    va_list more;
    va_start(more, what);
    void *value = va_arg(more, void *);
    va_end(more);
    if ((what == F_DUPFD || what == F_DUPFD_CLOEXEC) && fails("dup", fd, NULL, FILES))
        return -1;
    return real(fd, what, value);
}

int close(int fd)
{
    REAL(close);
    if (!fails("close", fd, NULL, IO))
        return real(fd);
    /* The descriptor is closed nevertheless (close(2)). */
    real(fd);
    errno = EIO;
    return -1;
}

void sync(void)
{
    REAL(sync);
    begins("sync", "/");
    real();
    returned();
}

pid_t fork(void)
{
    REAL(fork);
    begins("fork", "-");
    pid_t result = real();
    returned();
    return result;
}

/* Not vfork: it returns twice, and cannot be wrapped. */

#define SPAWN(name)                                                                                \
    int name(pid_t *pid, const char *program, const posix_spawn_file_actions_t *actions,           \
             const posix_spawnattr_t *attributes, char *const arguments[],                         \
             char *const environment[])                                                            \
    {                                                                                              \
        REAL(name);                                                                                \
        begins_program(#name, arguments);                                                          \
        int result = real(pid, program, actions, attributes, arguments, environment);              \
        returned();                                                                                \
        return result;                                                                             \
    }

SPAWN(posix_spawn)
SPAWN(posix_spawnp)

int execve(const char *program, char *const arguments[], char *const environment[])
{
    REAL(execve);
    begins_program("execve", arguments);
    int result = real(program, arguments, environment);
    returned();
    return result;
}
