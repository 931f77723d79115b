// Threads that wait for the next call.

#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "vectors.h"

namespace {

inline void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// A team that runs one function on `size` threads, the caller among them. Idle members spin for a moment (the
// next step of decoding comes soon), then sleep.
class Team {
 public:
  explicit Team(int size) : size(size) {
    for (int i = 1; i < size; i++) members_.emplace_back([this, i] { serve(i); });
  }
  ~Team() {
    {
      std::lock_guard<std::mutex> hold(lock_);
      over_ = true;
      call_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto &member : members_) member.join();
  }
  void run(const std::function<void(int)> &work) {
    work_ = &work;
    {
      std::lock_guard<std::mutex> hold(lock_);
      call_.fetch_add(1);
    }
    if (size > 1) wake_.notify_all();
    work(0);
    barrier();
  }
  // All members wait for each other.
  void barrier() {
    if (size == 1) return;
    int turn = turn_.load();
    if (arrived_.fetch_add(1) + 1 == size) {
      arrived_.store(0);
      turn_.fetch_add(1);
      return;
    }
    for (int spins = 0; turn_.load(std::memory_order_acquire) == turn; spins++)
      spins < 4000 ? pause_briefly() : std::this_thread::yield();
  }
  const int size;

 private:
  void serve(int member) {
    unsigned seen = 0;
    for (;;) {
      for (int spins = 0; spins < 4000 && call_.load(std::memory_order_acquire) == seen; spins++) pause_briefly();
      if (call_.load() == seen) {
        std::unique_lock<std::mutex> hold(lock_);
        wake_.wait(hold, [&] { return call_.load() != seen; });
      }
      seen = call_.load();
      if (over_) return;
      (*work_)(member);
      barrier();
    }
  }
  std::vector<std::thread> members_;
  std::mutex lock_;
  std::condition_variable wake_;
  std::atomic<unsigned> call_{0};
  std::atomic<int> arrived_{0}, turn_{0};
  const std::function<void(int)> *work_ = nullptr;
  bool over_ = false;
};

}  // namespace
