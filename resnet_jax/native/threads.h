// Work divided over XLA's own threads.
//
// An operation is cut into parts whose number depends on its shape alone, so that results do not
// depend on how many threads there are, and each part runs on one thread. A second pool, such as
// OpenMP's, would compete with XLA's for the cores; XLA's has one thread for each core that the
// process may use.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace native {

// OMP_NUM_THREADS, by which users bound numerical libraries, or no bound.
inline int64_t thread_limit() {
  static const int64_t limit = [] {
    const char* value = std::getenv("OMP_NUM_THREADS");
    const int64_t number = value ? std::atoll(value) : 0;
    return number > 0 ? number : INT64_MAX;
  }();
  return limit;
}

// Calls body(0) to body(count - 1), on the calling thread and on others that are idle.
//
// The caller works too and waits only for parts that have begun: with all of XLA's threads in
// here at once, none waits for one that never starts. Rethrows the first exception of a part.
template <class Body>
void for_each_part(xla::ffi::ThreadPool& pool, int64_t count, Body&& body) {
  struct Job {
    std::function<void(int64_t)> body;
    int64_t count;
    std::atomic<int64_t> next{0}, finished{0};
    std::mutex mutex;
    std::exception_ptr error;

    void work() {
      for (int64_t part; (part = next.fetch_add(1)) < count;) {
        try {
          body(part);
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (!error) error = std::current_exception();
        }
        if (finished.fetch_add(1) + 1 == count) finished.notify_all();
      }
    }
  };
  const int64_t threads = std::min({count, pool.num_threads(), thread_limit()});
  if (threads <= 1) {
    for (int64_t part = 0; part < count; ++part) body(part);
    return;
  }
  // Shared, for a helper may start when all is done; it then finds no part and touches nothing.
  auto job = std::make_shared<Job>();
  job->body = std::ref(body);
  job->count = count;
  for (int64_t helper = 1; helper < threads; ++helper) pool.Schedule([job] { job->work(); });
  job->work();
  for (int64_t seen; (seen = job->finished.load()) < count;) job->finished.wait(seen);
  if (job->error) std::rethrow_exception(job->error);
}

}  // namespace native
