/* SPDX-License-Identifier: Apache-2.0
 *
 * A library for LD_PRELOAD: adds the seconds in the file WRONG_CLOCK to the wall clock of a process and its children.
 * Timers and the monotonic clock do not change. (libfaketime 0.9.10 steps the monotonic clock too, or else breaks
 * clock_nanosleep.)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long *offset;
static int joined = 1;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

/* With WRONG_CLOCK_LATER from this call on: in tasks, but not in the scheduler that forks them. */
void wrong_clock_join(void) { joined = 1; }

__attribute__((constructor)) static void begin(void)
{
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    if (getenv("WRONG_CLOCK_LATER"))
        joined = 0;
    const char *path = getenv("WRONG_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *place = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (place != MAP_FAILED)
        offset = place;
}

static long wrong_by(void) { return joined && offset ? *offset : 0; }

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (!real_clock_gettime)
        begin();
    int failed = real_clock_gettime(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += wrong_by();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *place)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place)
        *place = now.tv_sec;
    return now.tv_sec;
}
