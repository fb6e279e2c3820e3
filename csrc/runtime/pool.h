// The worker threads of one executor. Between two phases they spin for a moment and then sleep, so an idle network costs nothing.
// Shares are claimed, not handed out: those of a worker that is late, asleep or without a core fall to the others.
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

    // Calls work(Share) once for every share, the first one here, and returns when all have ended; rethrows what one of them
    // threw. One caller at a time. In a child of fork(), which has none of these threads, the caller does every share.
    template <class Work>
    void run(const Work& work) {
        run({&work, [](const void* w, Share s) { (*static_cast<const Work*>(w))(s); }});
    }

  private:
    struct Call {
        const void* work;
        void (*one)(const void*, Share);        // null: the workers end
    };

    void run(const Call&);
    void begin(const Call&);
    bool claim(int32_t& index);
    void do_share(int32_t index);
    void serve();
    void stop();

    const int32_t count_;
    const uint32_t forks_;                      // of the process when the threads were started
    std::vector<std::thread> workers_;
    Call call_{};
    std::mutex error_lock_;
    std::exception_ptr error_;
    alignas(64) std::atomic<int32_t> next_;     // the next share to claim; count_ where there is none
    alignas(64) std::atomic<int32_t> left_{0};  // shares that have not ended
};

}  // namespace edgenas
