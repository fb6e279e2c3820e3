// What edgenas-run is asked for on its command line.
#pragma once
#include <stdexcept>
#include <string>

namespace edgenas::runner {

struct Arguments {
    std::string model;
    std::string input;              // file of raw inputs; empty: zeros, once
    bool image = false;             // the file holds pictures (H, W, C), not planes (C, H, W)
    std::string outputs;            // file for the raw outputs; empty: checksums alone
    std::string variant;            // row of the kernel tables to prefer
    int threads = 1;
    long runs = 20;                 // timed ones, at most
    double seconds = 10;            // of timing, at most
    bool profile = false;
    float detect = -1;              // score threshold of the boxes to print; negative: none
};

struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

extern const char* const kUsage;

// Throws UsageError naming the argument and what would work.
Arguments parse_arguments(int argc, char** argv);

}  // namespace edgenas::runner
