// Threads that wait for the next call.

#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include <unistd.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "vectors.h"

namespace {

inline void pause_briefly() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

// Sleeps while `word` is `value`, where the system can; may come back early.
inline void sleep_while(std::atomic<int> &word, int value) {
#if defined(__linux__)
  syscall(SYS_futex, (int *)&word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
  if (word.load() == value) std::this_thread::yield();
#endif
}
inline void wake_all(std::atomic<int> &word) {
#if defined(__linux__)
  syscall(SYS_futex, (int *)&word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
}

// A team that runs one function on `size` threads, the caller among them. Idle members spin for a moment (the
// next step of decoding comes soon), then sleep.
class Team {
 public:
  explicit Team(int size) : size(size) { recruit(); }
  ~Team() {
    if (process_ != getpid()) {
      leave();
      return;
    }
    {
      std::lock_guard<std::mutex> hold(lock_);
      over_ = true;
      call_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto &member : members_) member.join();
  }
  // The one of this size: all models share it, since teams that spin beside each other are in each other's way.
  static std::shared_ptr<Team> of(int size) {
    static std::mutex lock;
    static std::map<int, std::weak_ptr<Team>> teams;
    std::lock_guard<std::mutex> hold(lock);
    std::shared_ptr<Team> found = teams[size].lock();
    if (!found) teams[size] = found = std::make_shared<Team>(size);
    return found;
  }
  // Runs `work` on all members, or on the caller alone where company has been of no use: on a machine that others
  // use too, a member that is not running keeps the rest waiting at every barrier. Tried again after a while.
  // Callers from several threads take turns.
  void run(const std::function<void(int)> &work) {
    if (size == 1) return work(0);  // nobody is shared
    if (process_ != getpid()) recruit();
    std::lock_guard<std::mutex> turn(turns_);
    if (Clock::now() < alone_until_) {
      active_ = 1;
      return work(0);
    }
    active_ = size;
    work_ = &work;
    waited_.store(0);
    auto begun = Clock::now();
    {
      std::lock_guard<std::mutex> hold(lock_);
      call_.fetch_add(1);
    }
    wake_.notify_all();
    work(0);
    barrier();
    double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    if (size - waited_.load() * 1e-9 / seconds < USEFUL) alone_until_ = Clock::now() + RETRY;
  }
  // All members wait for each other.
  void barrier() {
    if (active_ == 1) return;
    int turn = turn_.load();
    if (arrived_.fetch_add(1) + 1 == size) {
      arrived_.store(0);
      turn_.fetch_add(1);
      if (asleep_.load()) wake_all(turn_);
      return;
    }
    int spins = 0;
    for (; spins < 200 && turn_.load(std::memory_order_acquire) == turn; spins++) pause_briefly();
    if (spins < 200) return;
    auto begun = Clock::now();
    for (; spins < SPINS && turn_.load(std::memory_order_acquire) == turn; spins++) pause_briefly();
    if (turn_.load() == turn) {  // who is missing is not running: its processor may well be this one
      asleep_.fetch_add(1);
      while (turn_.load() == turn) sleep_while(turn_, turn);
      asleep_.fetch_sub(1);
    }
    waited_.fetch_add(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begun).count());
  }
  const int size;

 private:
  // Threads do not come along into the child of a fork. There others take their places, under new locks: the old
  // ones may be held by who is not there.
  void recruit() {
    leave();
    new (&lock_) std::mutex;
    new (&turns_) std::mutex;
    new (&wake_) std::condition_variable;
    call_.store(0);
    arrived_.store(0);
    turn_.store(0);
    asleep_.store(0);
    for (int i = 1; i < size; i++) members_.emplace_back([this, i] { serve(i); });
    process_ = getpid();
  }
  void leave() {  // they can be neither joined nor destroyed
    if (!members_.empty()) new std::vector<std::thread>(std::move(members_));
    members_.clear();
  }
  typedef std::chrono::steady_clock Clock;
  static constexpr int SPINS = 4000;
  static constexpr std::chrono::milliseconds RETRY{50};
  static constexpr std::chrono::microseconds IDLE{1000};  // longer than what lies between two steps of decoding
  static constexpr double USEFUL = 1.2;  // members at work, on average, below which one alone does as well
  void serve(int member) {
    unsigned seen = 0;
    Clock::duration patience = IDLE;
    for (;;) {
      auto begun = Clock::now();
      for (auto end = begun + patience; call_.load(std::memory_order_acquire) == seen && Clock::now() < end;)
        for (int spins = 0; spins < 32; spins++) pause_briefly();
      if (call_.load() == seen) {
        std::unique_lock<std::mutex> hold(lock_);
        wake_.wait(hold, [&] { return call_.load() != seen; });
      }
      seen = call_.load();
      if (over_) return;
      patience = Clock::now() - begun < IDLE ? IDLE : IDLE / 16;  // as long as the last call would have been worth
      (*work_)(member);
      barrier();
    }
  }
  std::vector<std::thread> members_;
  std::mutex lock_, turns_;
  std::condition_variable wake_;
  std::atomic<unsigned> call_{0};
  std::atomic<int> arrived_{0}, turn_{0}, asleep_{0};
  std::atomic<int64_t> waited_{0};  // nanoseconds, of all members
  int active_ = 1;
  Clock::time_point alone_until_{};
  const std::function<void(int)> *work_ = nullptr;
  bool over_ = false;
  pid_t process_ = 0;
};

}  // namespace
