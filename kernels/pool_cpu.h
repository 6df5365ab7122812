#pragma once
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include "lane.h"
// Threads that share out the work of one call, and wait for one another between its steps.
//
// A thread that has nothing to do looks for work for some microseconds, for the next call often comes at once, and then
// sleeps. One caller at a time has the threads; others, a forked child (which has none of them) before it starts its own,
// and processes that may start none, do their work on the calling thread.

namespace bpx {

BPX_FN void pause_a_little() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}
/// Seconds, from some moment on.
static double seconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}
/// Turns of a waiting loop before a thread lets others have the processor.
constexpr int patience = 4000;

/// Where `count` threads wait until all of them are there.
struct Barrier {
  int count, arrived, round;
  void wait() {
    if (count == 1) return;
    const int mine = __atomic_load_n(&round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == count) {
      __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
      __atomic_store_n(&round, mine + 1, __ATOMIC_RELEASE);
      return;
    }
    for (int turn = 0; __atomic_load_n(&round, __ATOMIC_ACQUIRE) == mine; ++turn)
      turn < patience ? pause_a_little() : (void)sched_yield();
  }
};

/// The process's threads. Plain data: nothing is destroyed at exit, when they may still wait.
///
/// A call wakes and waits for as many as it wants, however many an earlier call had.
struct Pool {
  static constexpr int most = 1023;
  static constexpr double idle_seconds = 100e-6;  // before a thread without work sleeps
  pthread_mutex_t user, sleep;
  int threads, running;
  i64 round;                           // calls so far, and in its last ten bits how many threads the last one wants
  pthread_cond_t* asleep[most + 1];    // by thread, where it sleeps; null where it doesn't
  void (*work)(void*, int);
  void* what;

  static Pool& one() {
    static Pool pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
    return pool;
  }
  static void forget() {
    Pool& pool = one();
    pool = Pool{PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER};
  }

  /// Whether there is a call for this thread that it hasn't `seen`. It can't miss one: the call waits for it.
  bool calls(int mine, i64 seen, i64& now) const {
    now = __atomic_load_n(&round, __ATOMIC_ACQUIRE);
    return now != seen && mine <= (now & most);
  }
  /// What a thread does; `born` holds its number, and the round before its first.
  static void* loop(void* born) {
    Pool& pool = one();
    const int mine = int((i64)born & most);
    pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
    for (i64 seen = (i64)born >> 10, now;; seen = now) {
      const double since = seconds();
      while (!pool.calls(mine, seen, now)) {
        for (int turn = 0; turn < 50; ++turn) pause_a_little();
        if (seconds() - since < idle_seconds) continue;
        pthread_mutex_lock(&pool.sleep);
        pool.asleep[mine] = &wake;
        while (!pool.calls(mine, seen, now)) pthread_cond_wait(&wake, &pool.sleep);
        pool.asleep[mine] = nullptr;
        pthread_mutex_unlock(&pool.sleep);
      }
      pool.work(pool.what, mine);
      __atomic_sub_fetch(&pool.running, 1, __ATOMIC_ACQ_REL);
    }
    return nullptr;
  }

  /// The number of threads a call gets, itself included, which then must call run() and leave(); 1 if others have them.
  int enter(int count) {
    if (count <= 1 || pthread_mutex_trylock(&user) != 0) return 1;
    static bool registered = pthread_atfork(nullptr, nullptr, forget) == 0;
    (void)registered;
    while (threads < count - 1 && threads < most) {
      pthread_t thread;
      if (pthread_create(&thread, nullptr, loop, (void*)(round << 10 | (threads + 1))) != 0) break;
      pthread_detach(thread);
      ++threads;
    }
    if (threads > 0) return (threads < count - 1 ? threads : count - 1) + 1;
    pthread_mutex_unlock(&user);
    return 1;
  }

  /// work(what, 0) here and work(what, k) on count - 1 others; returns when all have returned.
  void run(int count, void (*some_work)(void*, int), void* some_thing) {
    if (count == 1) return some_work(some_thing, 0);
    work = some_work, what = some_thing;
    __atomic_store_n(&running, count - 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&sleep);
    __atomic_store_n(&round, ((round >> 10) + 1) << 10 | (count - 1), __ATOMIC_RELEASE);
    for (int k = 1; k < count; ++k)
      if (asleep[k]) pthread_cond_signal(asleep[k]);
    pthread_mutex_unlock(&sleep);
    some_work(some_thing, 0);
    for (int turn = 0; __atomic_load_n(&running, __ATOMIC_ACQUIRE) > 0; ++turn)
      turn < patience ? pause_a_little() : (void)sched_yield();
  }
  void leave(int count) {
    if (count > 1) pthread_mutex_unlock(&user);
  }
};

}  // namespace bpx
