#include "pool.h"

#include <pthread.h>

#include <utility>

namespace edgenas {
namespace {

// Spinning bridges the time between two steps of a network, a few microseconds; waking a sleeping thread takes longer than that.
constexpr int32_t kSpins = 4000;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Returns when the value is no longer `old`, and what it is.
template <class T>
T wait_while(const std::atomic<T>& value, T old) {
    for (int32_t k = 0; k < kSpins; ++k) {
        if (const T now = value.load(std::memory_order_acquire); now != old) return now;
        pause();
    }
    value.wait(old, std::memory_order_acquire);
    return value.load(std::memory_order_acquire);
}

// How many forks lie between the first process that had a pool and this one.
std::atomic<uint32_t> forks{0};

uint32_t watched_forks() {
    static const int watching = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
    static_cast<void>(watching);
    return forks.load(std::memory_order_relaxed);
}

}  // namespace

ThreadPool::ThreadPool(int32_t threads) : count_(threads), forks_(watched_forks()), queues_(static_cast<size_t>(threads)) {
    try {
        for (int32_t k = 1; k < count_; ++k) workers_.emplace_back(&ThreadPool::serve, this, k);
    } catch (...) {
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    if (forks_ != forks.load(std::memory_order_relaxed)) {
        new std::vector<std::thread>(std::move(workers_));      // threads of another process can be neither joined nor detached
        return;
    }
    begin({nullptr, nullptr, 1});
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::begin(const Call& call) {
    call_ = call;
    left_.store(count_ * call.each, std::memory_order_relaxed);
    for (Queue& q : queues_) q.left.store(call.each, std::memory_order_release);
    calls_.fetch_add(1, std::memory_order_release);
    calls_.notify_all();
}

// What claims a share has seen begin() whole, and the call cannot end before the share has: no worker meets half a call.
bool ThreadPool::claim(int32_t thread, int32_t& index) {
    for (int32_t k = 0; k < count_; ++k) {
        const int32_t owner = (thread + k) % count_;
        std::atomic<int32_t>& queue = queues_[static_cast<size_t>(owner)].left;
        int32_t left = queue.load(std::memory_order_relaxed);
        while (left > 0)
            if (queue.compare_exchange_weak(left, left - 1, std::memory_order_acquire, std::memory_order_relaxed)) {
                index = (owner + 1) * call_.each - left;
                return true;
            }
    }
    return false;
}

void ThreadPool::serve(int32_t thread) {
    for (;;) {
        const uint32_t calls = calls_.load(std::memory_order_acquire);
        if (!do_shares(thread)) return;
        wait_while(calls_, calls);
    }
}

// False where the claimed share says that the workers end.
bool ThreadPool::do_shares(int32_t thread) {
    for (int32_t index; claim(thread, index);) {
        if (call_.one == nullptr) return false;
        try {
            call_.one(call_.work, {index, count_ * call_.each});
        } catch (...) {
            const std::lock_guard lock(error_lock_);
            error_ = std::current_exception();
        }
        if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) left_.notify_one();
    }
    return true;
}

void ThreadPool::run(const Call& call) {
    if (workers_.empty() || forks_ != forks.load(std::memory_order_relaxed)) {
        const int32_t shares = count_ * call.each;
        for (int32_t index = shares - 1; index >= 0; --index) call.one(call.work, {index, shares});     // in any order
        return;
    }
    begin(call);
    do_shares(0);
    for (int32_t left = left_.load(std::memory_order_acquire); left != 0;) left = wait_while(left_, left);
    if (error_ != nullptr) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace edgenas
