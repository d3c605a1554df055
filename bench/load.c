/* Load generator of the benchmarks: compiled at run time, so that the client is never the
 * bottleneck. Every command prints "operations bytes seconds" of its timed part on one line.
 *
 *   randread FILE SECONDS            4 KiB pread at random aligned offsets of one open file
 *   randwrite FILE SIZE SECONDS      fill a new file, then 4 KiB pwrite at random offsets of it
 *   seqread FILE SECONDS             whole file front to back, again until the time is over;
 *                                    0 seconds: exactly once, the open included
 *   seqwrite FILE SIZE               new file front to back, open and close included
 *   streams FILE...                  every file once front to back, one thread each
 *   warmread DIR SECONDS             open+read+close of the files below DIR, in turn; the names
 *                                    are collected before the time starts
 *   warmstat DIR SECONDS             stat of the same
 *   walkread DIR                     one walk: each file is opened and read as it is found
 *   create DIR COUNT THREADS SIZE    new files f000000..., each written and closed
 *   list DIR                         names of one directory, nothing else asked of them
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, CHUNK = 128 * 1024, CLOCK_EVERY = 16 };

static uint64_t operations, bytes;

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void report(double started) {
    printf("%llu %llu %.9f\n", (unsigned long long)operations, (unsigned long long)bytes,
           now() - started);
}

static char *buffer_of(size_t size) {
    /* Of whole pages, as cp, dd and cat do: Zen 3 copies eleven times slower from a page to an
       address 1 to 31 bytes beyond another one's beginning, where malloc puts large blocks. */
    char *buffer = aligned_alloc(BLOCK, (size + BLOCK - 1) / BLOCK * BLOCK);
    if (!buffer) fail("aligned_alloc");
    uint64_t state = 88172645463325252ull; /* not zeros: nothing may shorten them on the way */
    for (size_t i = 0; i + 8 <= size; i += 8) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        memcpy(buffer + i, &state, 8);
    }
    return buffer;
}

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

static int open_or_fail(const char *path, int flags) {
    int fd = open(path, flags, 0644);
    if (fd < 0) fail(path);
    return fd;
}

static void close_or_fail(int fd, const char *path) {
    if (close(fd)) fail(path); /* a lost write shows here */
}

static uint64_t read_all(const char *path, char *buffer, size_t size) {
    int fd = open_or_fail(path, O_RDONLY);
    uint64_t total = 0;
    ssize_t got;
    while ((got = read(fd, buffer, size)) > 0) total += (uint64_t)got;
    if (got < 0) fail(path);
    close_or_fail(fd, path);
    return total;
}

static void write_all(int fd, const char *path, const char *buffer, uint64_t size, size_t chunk) {
    for (uint64_t done = 0; done < size;) {
        size_t want = size - done < chunk ? (size_t)(size - done) : chunk;
        ssize_t put = write(fd, buffer, want);
        if (put <= 0) fail(path);
        done += (uint64_t)put;
    }
}

/* Random access to an open file of at least one block; the clock is looked at now and then. */
static void random_access(int fd, const char *path, double seconds, int writing) {
    struct stat st;
    if (fstat(fd, &st)) fail(path);
    uint64_t blocks = (uint64_t)st.st_size / BLOCK, state = 2463534242ull;
    if (!blocks) errno = EINVAL, fail(path);
    char *buffer = buffer_of(BLOCK);
    double started = now();
    do {
        for (int i = 0; i < CLOCK_EVERY; i++) {
            off_t at = (off_t)(next_random(&state) % blocks * BLOCK);
            ssize_t n = writing ? pwrite(fd, buffer, BLOCK, at) : pread(fd, buffer, BLOCK, at);
            if (n != BLOCK) fail(path);
        }
        operations += CLOCK_EVERY;
    } while (now() - started < seconds);
    bytes = operations * BLOCK;
    report(started);
}

static void randread(char **a) {
    int fd = open_or_fail(a[0], O_RDONLY);
    random_access(fd, a[0], atof(a[1]), 0);
    close_or_fail(fd, a[0]);
}

static void randwrite(char **a) {
    int fd = open_or_fail(a[0], O_RDWR | O_CREAT | O_EXCL);
    write_all(fd, a[0], buffer_of(CHUNK), strtoull(a[1], NULL, 10), CHUNK);
    random_access(fd, a[0], atof(a[2]), 1);
    close_or_fail(fd, a[0]);
}

static void seqread(char **a) {
    char *buffer = buffer_of(CHUNK);
    double started = now(), seconds = atof(a[1]);
    do {
        bytes += read_all(a[0], buffer, CHUNK);
        operations++;
    } while (now() - started < seconds);
    report(started);
}

static void seqwrite(char **a) {
    char *buffer = buffer_of(CHUNK);
    double started = now();
    int fd = open_or_fail(a[0], O_WRONLY | O_CREAT | O_TRUNC);
    bytes = strtoull(a[1], NULL, 10);
    write_all(fd, a[0], buffer, bytes, CHUNK);
    close_or_fail(fd, a[0]);
    operations = 1;
    report(started);
}

static void *stream(void *path) {
    uint64_t got = read_all(path, buffer_of(CHUNK), CHUNK);
    __atomic_add_fetch(&bytes, got, __ATOMIC_RELAXED);
    __atomic_add_fetch(&operations, 1, __ATOMIC_RELAXED);
    return NULL;
}

static void streams(char **a) {
    pthread_t thread[256];
    int count = 0;
    double started = now();
    for (; a[count] && count < 256; count++)
        if (pthread_create(&thread[count], NULL, stream, a[count])) fail("pthread_create");
    for (int i = 0; i < count; i++) pthread_join(thread[i], NULL);
    report(started);
}

typedef void visit(const char *path);

/* Calls `found` for each regular file below `directory`, in the order the file system gives. */
static void walk(const char *directory, visit *found) {
    DIR *dir = opendir(directory);
    if (!dir) fail(directory);
    struct dirent *entry;
    char path[PATH_MAX];
    struct stat st;
    while (errno = 0, (entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) >= (int)sizeof path)
            errno = ENAMETOOLONG, fail(directory);
        int type = entry->d_type;
        if (type == DT_UNKNOWN) {
            if (lstat(path, &st)) fail(path);
            type = S_ISDIR(st.st_mode) ? DT_DIR : S_ISREG(st.st_mode) ? DT_REG : DT_UNKNOWN;
        }
        if (type == DT_DIR) walk(path, found);
        else if (type == DT_REG) found(path);
    }
    if (errno) fail(directory);
    closedir(dir);
}

static char *shared; /* one buffer for the commands of one thread */

static void read_found(const char *path) {
    bytes += read_all(path, shared, CHUNK);
    operations++;
}

static void walkread(char **a) {
    shared = buffer_of(CHUNK);
    double started = now();
    walk(a[0], read_found);
    report(started);
}

static char **names;
static size_t name_count;

static void remember(const char *path) {
    if (!(name_count & (name_count - 1))) { /* grows at powers of two */
        names = realloc(names, (name_count ? 2 * name_count : 1) * sizeof *names);
        if (!names) fail("realloc");
    }
    if (!(names[name_count++] = strdup(path))) fail("strdup");
}

static void stat_found(const char *path) {
    struct stat st;
    if (stat(path, &st)) fail(path);
    bytes += (uint64_t)st.st_size;
    operations++;
}

static void warm(char **a, visit *operation) {
    shared = buffer_of(CHUNK);
    walk(a[0], remember);
    if (!name_count) errno = ENOENT, fail(a[0]);
    double seconds = atof(a[1]), started = now();
    for (size_t i = 0;; i = (i + 1) % name_count) {
        operation(names[i]);
        if (operations % CLOCK_EVERY == 0 && now() - started >= seconds) break;
    }
    report(started);
}

static void warmread(char **a) { warm(a, read_found); }
static void warmstat(char **a) { warm(a, stat_found); }

static struct {
    const char *directory, *buffer;
    uint64_t count, next, size;
} making;

static void *make(void *unused) {
    char path[PATH_MAX];
    uint64_t i;
    while ((i = __atomic_fetch_add(&making.next, 1, __ATOMIC_RELAXED)) < making.count) {
        snprintf(path, sizeof path, "%s/f%06llu", making.directory, (unsigned long long)i);
        int fd = open_or_fail(path, O_WRONLY | O_CREAT | O_EXCL);
        write_all(fd, path, making.buffer, making.size, CHUNK);
        close_or_fail(fd, path);
    }
    return unused;
}

static void create(char **a) {
    pthread_t thread[256];
    int threads = atoi(a[2]) < 256 ? atoi(a[2]) : 256;
    making.directory = a[0];
    making.count = strtoull(a[1], NULL, 10);
    making.size = strtoull(a[3], NULL, 10);
    making.buffer = buffer_of(CHUNK);
    double started = now();
    for (int i = 0; i < threads; i++)
        if (pthread_create(&thread[i], NULL, make, NULL)) fail("pthread_create");
    for (int i = 0; i < threads; i++) pthread_join(thread[i], NULL);
    operations = making.count;
    bytes = making.count * making.size;
    report(started);
}

static void list(char **a) {
    double started = now();
    DIR *dir = opendir(a[0]);
    if (!dir) fail(a[0]);
    struct dirent *entry;
    while (errno = 0, (entry = readdir(dir)))
        operations += strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
    if (errno) fail(a[0]);
    closedir(dir);
    report(started);
}

static const struct {
    const char *name;
    int arguments; /* at least so many */
    void (*run)(char **);
} commands[] = {
    {"randread", 2, randread}, {"randwrite", 3, randwrite}, {"seqread", 2, seqread},
    {"seqwrite", 2, seqwrite}, {"streams", 1, streams},     {"warmread", 2, warmread},
    {"warmstat", 2, warmstat}, {"walkread", 1, walkread},   {"create", 4, create},
    {"list", 1, list},
};

int main(int count, char **arguments) {
    for (size_t i = 0; count > 1 && i < sizeof commands / sizeof *commands; i++)
        if (!strcmp(arguments[1], commands[i].name) && count - 2 >= commands[i].arguments) {
            commands[i].run(arguments + 2);
            return 0;
        }
    fprintf(stderr, "usage: see the head of load.c\n");
    return 2;
}
