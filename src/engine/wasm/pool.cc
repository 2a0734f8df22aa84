// The threads of ../native/pool.h: workers of Node, each with its own instance of this module over the same memory. A
// worker calls serve() once and waits in it; while a worker starts, the main thread works alone.
#include "../native/pool.h"

#include <atomic>
#include <cstdint>

#include "host.h"
#include "workers.h"

namespace realm {
namespace {

/** Looks, some 50 microseconds, before an idle worker sleeps: the next kernel usually follows closely. */
constexpr int LOOKS_BEFORE_SLEEP = 20000;

int threadCount = 1;
const std::function<void(int)>* work = nullptr;
int count = 0;
std::atomic<int> next{0};
std::atomic<int> job{0};      // odd while a job is open
std::atomic<int> inside{0};   // workers that may be at the open job
std::atomic<int> sleeping{0};
std::atomic<int> news{0};     // changes when a worker leaves a job, or asks for memory
std::atomic<bool> failed{false};

void take() {
  for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) (*work)(i);
}

int* word(std::atomic<int>& x) { return reinterpret_cast<int*>(&x); }

/** No more workers may join the open job; those at work finish their piece, while `work` must live. */
void closeJob() {
  job.fetch_add(1);
  for (int looks = 0;; looks++) {
    const int seen = news.load();
    if (inside.load() == 0) break;
    serveMemory();
    if (looks > LOOKS_BEFORE_SLEEP) __builtin_wasm_memory_atomic_wait32(word(news), seen, -1);
  }
}

}  // namespace

void tellMain() {
  news.fetch_add(1);
  __builtin_wasm_memory_atomic_notify(word(news), 1);
}

void setThreads(int count) { threadCount = count < 1 ? 1 : count; }
int threads() { return threadCount; }

void parallel(int pieces, const std::function<void(int)>& function) {
  if (pieces <= 1 || threadCount == 1) {
    for (int i = 0; i < pieces; i++) function(i);
    return;
  }
  work = &function;
  count = pieces;
  next.store(0, std::memory_order_relaxed);
  job.fetch_add(1);
  if (sleeping.load() > 0) __builtin_wasm_memory_atomic_notify(word(job), ~0u);
  take();
  closeJob();
  if (failed.load()) hostFail("a thread of the WebAssembly engine has failed; usually memory has run out");
}

/** Called after an error, before the stack is given up: an exception of JavaScript may have left a job open. */
extern "C" __attribute__((export_name("recover"))) void recover() {
  if (job.load() % 2 == 0) return;
  next.store(count);
  closeJob();
}

/** A worker's life. */
extern "C" __attribute__((export_name("serve"))) void serve() {
  int done = 0;
  for (;;) {
    int current = job.load();
    for (int looks = 0; looks < LOOKS_BEFORE_SLEEP && (current % 2 == 0 || current == done); looks++)
      current = job.load();
    if (current % 2 == 0 || current == done) {
      sleeping.fetch_add(1);
      __builtin_wasm_memory_atomic_wait32(word(job), current, -1);  // returns at once if the job has changed
      sleeping.fetch_sub(1);
      continue;
    }
    inside.fetch_add(1);
    if (job.load() == current) take();
    done = current;
    if (inside.fetch_sub(1) == 1) tellMain();
  }
}

/** The end of a worker whose code has trapped: its piece is not done. */
extern "C" __attribute__((export_name("giveUp"))) void giveUp() {
  failed.store(true);
  inside.fetch_sub(1);
  tellMain();
}

}  // namespace realm
