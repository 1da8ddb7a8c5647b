/* sampler.c: notes where the program is, so many times a second (benchmarks/profile.py). */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <sys/time.h>
#include <ucontext.h>

static uintptr_t *places;
static volatile uint32_t count, room;

static void note(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
#if defined(__x86_64__)
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.pc;
#endif
    if (count < room) places[count++] = at;
}

static void every(long microseconds) {
    struct itimerval timer = {{0, microseconds}, {0, microseconds}};
    setitimer(ITIMER_REAL, &timer, NULL);
}

void start(uintptr_t *to, uint32_t size, long microseconds) {
    struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART};
    places = to, count = 0, room = size;
    sigaction(SIGALRM, &action, NULL);
    every(microseconds);
}

uint32_t stop(void) {
    every(0);
    return count;
}
