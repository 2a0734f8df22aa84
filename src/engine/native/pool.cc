#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace realm {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/** Spins, about 50 microseconds, before an idle thread sleeps: the next kernel usually follows closely. */
constexpr int SPINS_BEFORE_SLEEP = 1500;

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; i++) std::thread([this] { serve(); }).detach();
  }

  void run(int count, const std::function<void(int)>& work) {
    {
      std::lock_guard lock(mutex_);
      work_ = &work;
      count_ = count;
      next_.store(0, std::memory_order_relaxed);
      failure_ = nullptr;
      open_.store(true, std::memory_order_release);
    }
    wake_.notify_all();
    take(work, count);
    // No more threads may join; those at work finish their piece.
    {
      std::lock_guard lock(mutex_);
      open_.store(false, std::memory_order_relaxed);
      work_ = nullptr;
    }
    for (int turn = 0; turn < SPINS_BEFORE_SLEEP && inside_.load(std::memory_order_acquire) > 0; turn++) pause();
    std::unique_lock lock(mutex_);
    left_.wait(lock, [this] { return inside_ == 0; });
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void take(const std::function<void(int)>& work, int count) {
    try {
      for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count;) work(i);
    } catch (...) {
      std::lock_guard lock(mutex_);
      failure_ = std::current_exception();
      next_.store(count, std::memory_order_relaxed);
    }
  }

  void serve() {
    for (;;) {
      for (int turn = 0; turn < SPINS_BEFORE_SLEEP && !open_.load(std::memory_order_acquire); turn++) pause();
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return work_ && next_.load(std::memory_order_relaxed) < count_; });
      const auto* work = work_;
      const int count = count_;
      inside_++;
      lock.unlock();
      take(*work, count);
      lock.lock();
      if (--inside_ == 0) left_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, left_;
  std::atomic<bool> open_{false};
  std::atomic<int> next_{0};
  const std::function<void(int)>* work_ = nullptr;
  int count_ = 0;
  std::atomic<int> inside_{0};
  std::exception_ptr failure_;
};

int threadCount = 1;
Pool* pool = nullptr;  // never freed: its threads live as long as the process
std::mutex one;        // a second kernel at the same time runs on its own thread only

}  // namespace

void setThreads(int count) { threadCount = count < 1 ? 1 : count; }
int threads() { return threadCount; }

void parallel(int count, const std::function<void(int)>& work) {
  std::unique_lock lock(one, std::try_to_lock);
  if (count <= 1 || threadCount == 1 || !lock) {
    for (int i = 0; i < count; i++) work(i);
    return;
  }
  if (!pool) pool = new Pool(threadCount);
  pool->run(count, work);
}

}  // namespace realm
