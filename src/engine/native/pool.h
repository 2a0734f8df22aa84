// Threads that share one kernel's work.
#pragma once
#include <functional>

namespace realm {

/** Sets the number of threads, the current one included; call it before the first kernel. */
void setThreads(int count);
int threads();

/** Calls work(0) to work(count - 1), in any order, on all threads; returns when all are done. May not be nested. */
void parallel(int count, const std::function<void(int)>& work);

/** Calls work(from, to) on pieces of [0, count) of at least `least` items. */
template <class Work>
void parallelRanges(long count, long least, const Work& work) {
  long pieces = count / (least > 0 ? least : 1);
  const long most = 4L * threads();
  if (pieces > most) pieces = most;
  if (pieces <= 1) {
    if (count > 0) work(0L, count);
    return;
  }
  parallel(static_cast<int>(pieces), [&](int i) { work(count * i / pieces, count * (i + 1) / pieces); });
}

}  // namespace realm
