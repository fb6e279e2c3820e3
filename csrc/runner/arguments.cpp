#include "arguments.h"

#include <cstdlib>
#include <cstring>

#include "../runtime/pool.h"

namespace edgenas::runner {

const char* const kUsage =
    "edgenas-run MODEL.edge [options]      runs a compiled network and prints what it found as one JSON object\n"
    "  --input FILE     raw inputs as planes (C, H, W), uint8 or float32 as the network takes them; several runs one after another\n"
    "  --image FILE     raw RGB pictures (H, W, 3) of uint8 in the network's own size; several one after another\n"
    "  --zeros          one run on zeros (what happens without --input or --image)\n"
    "  --outputs FILE   write the raw outputs (C, H, W), all outputs of the first run, then of the next\n"
    "  --detect SCORE   print the boxes of each run with at least this score (a detector whose plan ends in a decode)\n"
    "  --threads N      threads that share the larger layers, 1; the results are the same bytes\n"
    "  --runs N         timed runs at most, 20; 0 times nothing\n"
    "  --seconds S      seconds of timing at most, 10\n"
    "  --profile        the median time of each instruction\n"
    "  --variant NAME   a kernel variant to prefer where it fits\n"
    "  --json           accepted: the output is always JSON\n"
    "The environment variable EDGENAS_ISA lowers the instruction sets in use: portable, avx2, avx512, neon.\n"
    "Exit codes: 0 done, 2 an argument, a file or the artifact is wrong; stderr says what.\n";

namespace {

// The number at `text`, in low .. high.
double number(const std::string& name, const char* text, double low, double high) {
    char* end = nullptr;
    const double value = std::strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= low && value <= high))
        throw UsageError(name + " " + text + ": want a number in " + std::to_string(static_cast<long>(low)) + " .. " +
                         std::to_string(static_cast<long>(high)));
    return value;
}

}  // namespace

Arguments parse_arguments(int argc, char** argv) {
    Arguments found;
    for (int k = 1; k < argc; ++k) {
        const std::string name = argv[k];
        const auto value = [&]() -> const char* {
            if (k + 1 >= argc) throw UsageError(name + " needs a value");
            return argv[++k];
        };
        if (name == "--input" || name == "--image") {
            if (!found.input.empty()) throw UsageError("--input and --image: give one of them, once");
            found.input = value();
            found.image = name == "--image";
        } else if (name == "--outputs") {
            found.outputs = value();
        } else if (name == "--variant") {
            found.variant = value();
        } else if (name == "--detect") {
            found.detect = static_cast<float>(number(name, value(), 0, 1));
        } else if (name == "--threads") {
            found.threads = static_cast<int>(number(name, value(), 1, kMaxThreads));
        } else if (name == "--runs") {
            found.runs = static_cast<long>(number(name, value(), 0, 1e6));
        } else if (name == "--seconds") {
            found.seconds = number(name, value(), 0, 3600);
        } else if (name == "--profile") {
            found.profile = true;
        } else if (name == "--zeros" || name == "--json") {
            continue;
        } else if (name.starts_with("-") || !found.model.empty()) {
            throw UsageError("unknown argument " + name + "; --help lists what is known");
        } else {
            found.model = name;
        }
    }
    if (found.model.empty()) throw UsageError("no artifact given: edgenas-run MODEL.edge; --help lists the options");
    return found;
}

}  // namespace edgenas::runner
