// The worker threads of one executor. Between two phases they spin for a moment and then sleep, so an idle network costs nothing.
// Shares are claimed, not handed out: each worker has its own, next to each other, and then takes what others have left. So those of
// one that is slow, late, asleep or without a core fall to the rest, and else a worker meets the same piece of a tensor again.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "../kernels/share.h"

namespace edgenas {

constexpr int32_t kMaxThreads = 256;

class ThreadPool {
  public:
    // threads counts the caller's own; throws std::system_error where the system gives no more.
    explicit ThreadPool(int32_t threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int32_t threads() const { return count_; }

    // Calls work(Share) once for every share, `each` of them for every thread, and returns when all have ended; rethrows what one
    // of them threw. One caller at a time. In a child of fork(), which has none of these threads, the caller does every share.
    template <class Work>
    void run(int32_t each, const Work& work) {
        run({&work, [](const void* w, Share s) { (*static_cast<const Work*>(w))(s); }, each});
    }

  private:
    struct Call {
        const void* work;
        void (*one)(const void*, Share);        // null: the workers end
        int32_t each;
    };
    struct alignas(64) Queue {
        std::atomic<int32_t> left{0};           // of a thread's shares, those that nobody has claimed
    };

    void run(const Call&);
    void begin(const Call&);
    bool claim(int32_t thread, int32_t& index);
    bool do_shares(int32_t thread);
    void serve(int32_t thread);
    void stop();

    const int32_t count_;
    const uint32_t forks_;                      // of the process when the threads were started
    std::vector<std::thread> workers_;
    std::vector<Queue> queues_;                 // of each thread, the caller's first
    Call call_{};
    std::mutex error_lock_;
    std::exception_ptr error_;
    alignas(64) std::atomic<uint32_t> calls_{0};        // begun so far
    alignas(64) std::atomic<int32_t> left_{0};          // shares that have not ended
};

}  // namespace edgenas
