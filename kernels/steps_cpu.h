#pragma once
#include "pool_cpu.h"
// A call as steps of tasks: threads take a step's tasks one after another, and wait for one another between steps.

namespace bpx {

/// What Call has: `m` with the fields `time` (seconds after which the call returns, to be called again), `next` (the
/// step to be done) and `threads`; steps(), how many there are; begin(step), which every thread calls; one_step(step,
/// worker), which does tasks while next_task() gives some; and finish(step), which one thread calls.
template <class Call> struct Steps {
  int workers = 1;
  Barrier barrier;
  i64 tasks[2] = {0, 0}, *task = tasks;  // the next task; steps take turns
  i64 last = -1;                         // the step after which the time is up
  double since;

  i64 next_task() { return __atomic_fetch_add(task, 1, __ATOMIC_RELAXED); }

  /// Threads call it together; they return when the work is done, or the time is up.
  void work(int worker) {
    Call& call = *static_cast<Call*>(this);
    const i64 all = call.steps();
    for (i64 step = call.m.next; step < all; ++step) {
      task = &tasks[step % 2];
      call.begin(step);
      call.one_step(step, worker);
      if (worker == 0 && seconds() - since > call.m.time) last = step;  // others may yet have to leave the step before
      barrier.wait();
      if (worker == 0) {
        tasks[step % 2] = 0;  // nobody takes from it before the next step has ended
        call.m.next = step + 1;
        call.finish(step);
      }
      if (step == last) return;
    }
  }

  /// work() on `wanted` threads, but no more than the call may have. Whether it is done.
  bool share_out(const i64 most, i64 wanted) {
    Pool& pool = Pool::one();
    workers = pool.enter(int(wanted < most ? wanted : most));
    barrier.count = workers;
    since = seconds();
    pool.run(workers, [](void* call, int worker) { ((Call*)(Steps*)call)->work(worker); }, this);
    pool.leave(workers);
    return last < 0;
  }
};

}  // namespace bpx
