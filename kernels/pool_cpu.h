#pragma once
#include <pthread.h>
#include <time.h>
#include "lane.h"
// Threads that share out the work of one call, and wait for one another between its steps.
//
// A thread that has nothing to do looks for work for some microseconds, for the next call often comes at once, and then
// sleeps; so does one that waits for others. One caller at a time has the threads; others, and processes that may start
// none, do their work on the calling thread. A forked child has none of its parent's, and starts its own.

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
/// Turns of a waiting loop, some 50 microseconds, before a thread sleeps: others may need its processor.
constexpr int patience = 4000;

/// Waits until `*number` is no longer `old`: a little by looking, then asleep. Who has changed it calls wake().
struct Gate {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
  int sleeping = 0;
  void wait(const i64* number, i64 old) {
    for (int turn = 0; turn < patience; ++turn) {
      if (__atomic_load_n(number, __ATOMIC_ACQUIRE) != old) return;
      pause_a_little();
    }
    pthread_mutex_lock(&mutex);
    ++sleeping;
    while (__atomic_load_n(number, __ATOMIC_ACQUIRE) == old) pthread_cond_wait(&changed, &mutex);
    --sleeping;
    pthread_mutex_unlock(&mutex);
  }
  void wake() {
    pthread_mutex_lock(&mutex);
    if (sleeping) pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
  }
};

/// Where `count` threads wait until all of them are there.
struct Barrier {
  int count = 1, arrived = 0;
  i64 round = 0;
  Gate gate;
  void wait() {
    if (count == 1) return;
    const i64 mine = __atomic_load_n(&round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) < count) return gate.wait(&round, mine);
    __atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&round, mine + 1, __ATOMIC_RELEASE);
    gate.wake();
  }
};

/// The process's threads. Nothing is destroyed at exit, when they may still wait.
struct Pool {
  static constexpr int most = 1023;
  pthread_mutex_t user;  // of whoever has the threads
  Gate start[most + 1], end;  // a gate for each thread: a call wakes those that it wants
  int threads, running;
  i64 round, ended;      // calls so far, and in its last ten bits how many threads the last one wants; the last to end
  void (*work)(void*, int);
  void* what;

  static Pool& one() {
    static Pool pool = {PTHREAD_MUTEX_INITIALIZER};
    return pool;
  }
  static inline bool children_forget = false;  // as their own children will
  static void forget() { one() = Pool{PTHREAD_MUTEX_INITIALIZER}; }

  /// What a thread does; `born` holds its number, and the round before its first.
  static void* loop(void* born) {
    Pool& pool = one();
    const int mine = int((i64)born & most);
    for (i64 seen = (i64)born >> 10;;) {
      pool.start[mine].wait(&pool.round, seen);
      seen = __atomic_load_n(&pool.round, __ATOMIC_ACQUIRE);
      if (mine > (seen & most)) continue;  // nobody waits for this thread, which may be late
      pool.work(pool.what, mine);
      if (__atomic_sub_fetch(&pool.running, 1, __ATOMIC_ACQ_REL) > 0) continue;
      __atomic_store_n(&pool.ended, seen, __ATOMIC_RELEASE);
      pool.end.wake();
    }
    return nullptr;
  }

  /// The number of threads a call gets, itself included, which then must call run() and leave(); 1 if others have them.
  int enter(int count) {
    if (count <= 1 || pthread_mutex_trylock(&user) != 0) return 1;
    if (!children_forget) children_forget = pthread_atfork(nullptr, nullptr, forget) == 0;
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
    const i64 before = ended;
    __atomic_store_n(&running, count - 1, __ATOMIC_RELAXED);
    __atomic_store_n(&round, ((round >> 10) + 1) << 10 | (count - 1), __ATOMIC_RELEASE);
    for (int k = 1; k < count; ++k) start[k].wake();
    some_work(some_thing, 0);
    end.wait(&ended, before);
  }
  void leave(int count) {
    if (count > 1) pthread_mutex_unlock(&user);
  }
};

/// work(what) on at most so many threads at once, this one among them; returns when all have returned.
inline void share_out(void (*work)(void*), void* what, i64 threads) {
  struct Shared { void (*work)(void*); void* what; } shared{work, what};
  Pool& pool = Pool::one();
  const int count = pool.enter(int(threads));
  pool.run(count, [](void* all, int) { ((Shared*)all)->work(((Shared*)all)->what); }, &shared);
  pool.leave(count);
}

}  // namespace bpx
