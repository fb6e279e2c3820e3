// edgenas-run: one static program that runs an artifact on a device and prints, as JSON, checksums or boxes of its outputs,
// how long a run takes, and the memory it needs. nas/deploy builds it, sends it and reads what it prints.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "../runtime/cpu.h"
#include "../runtime/planar.h"
#include "json.h"
#include "arguments.h"

namespace {

using namespace edgenas;
using runner::Json;
using runner::Arguments;
using Bytes = std::vector<std::byte>;
using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); }

Bytes contents(const std::string& path) {
    std::ifstream in(path, std::ios::binary | std::ios::ate);
    if (!in) throw ArtifactError(path + ": " + std::strerror(errno));
    Bytes bytes(static_cast<size_t>(std::max<std::streamoff>(in.tellg(), 0)));
    in.seekg(0);
    in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!in) throw ArtifactError(path + ": it cannot be read");
    return bytes;
}

// Value of a line "key : value" of a file such as /proc/cpuinfo; empty where there is none.
std::string value_of(const char* path, std::string_view key) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);)
        if (line.starts_with(key)) {
            const size_t start = line.find_first_not_of(" \t", line.find(':') + 1);
            return start == std::string::npos ? "" : line.substr(start);
        }
    return {};
}

std::string cpu_name() {
    for (const char* key : {"model name", "Model", "Hardware"})
        if (const std::string found = value_of("/proc/cpuinfo", key); !found.empty()) return found;
    std::ifstream model("/proc/device-tree/model");
    std::string found;
    std::getline(model, found, '\0');
    return found.empty() ? "unknown" : found;
}

// Bytes of all inputs of one run, in the form that the file has them.
size_t run_bytes(const Plan& plan, std::span<const uint32_t> ids) {
    int64_t sum = 0;
    for (const uint32_t id : ids) sum += planar_bytes(plan.tensors[id]);
    return static_cast<size_t>(sum);
}

// A picture (H, W, C) as planes.
Bytes planes(const std::byte* picture, const Tensor& t) {
    Bytes out(static_cast<size_t>(t.elements()));
    for (int64_t k = 0; k < t.c; ++k)
        for (int64_t p = 0; p < t.pixels(); ++p) out[static_cast<size_t>(k * t.pixels() + p)] = picture[p * t.c + k];
    return out;
}

void set_inputs(const Executor& executor, const std::byte* from, bool image) {
    for (const uint32_t id : executor.plan().inputs) {
        const Tensor& t = executor.plan().tensors[id];
        set_planar(executor, id, image ? planes(from, t).data() : from);
        from += planar_bytes(t);
    }
}

Bytes inputs_of(const Executor& executor, const Arguments& arguments) {
    const Plan& plan = executor.plan();
    const size_t each = run_bytes(plan, plan.inputs);
    if (arguments.input.empty()) return Bytes(each);
    if (arguments.image && (plan.inputs.size() != 1 || plan.tensors[plan.inputs[0]].f32))
        throw ArtifactError("--image: this network takes no picture of uint8; give its tensors with --input");
    Bytes found = contents(arguments.input);
    if (found.empty() || found.size() % each != 0)
        throw ArtifactError(arguments.input + ": " + std::to_string(found.size()) + " bytes are not one or more runs of " +
                            std::to_string(each));
    return found;
}

void print_boxes(Json& json, const Executor& executor, float threshold) {
    const Detections d = executor.detect(threshold, 0.6f, 300);
    json.open('[', "boxes");
    for (size_t k = 0; k < d.scores.size(); ++k) {
        json.open('{');
        json.open('[', "box_xyxy");
        for (size_t j = 0; j < 4; ++j) json.number(d.boxes_xyxy[4 * k + j]);
        json.close(']');
        json.number(d.scores[k], "score");
        json.integer(d.labels[k], "label");
        json.close('}');
    }
    json.close(']');
}

// Every run of the inputs once: its outputs into the file, one checksum each, and the boxes where they are wanted.
void run_all(Json& json, const Executor& executor, const Bytes& inputs, const Arguments& arguments) {
    const Plan& plan = executor.plan();
    const size_t each = run_bytes(plan, plan.inputs);
    std::ofstream out;
    if (!arguments.outputs.empty()) {
        out.open(arguments.outputs, std::ios::binary);
        if (!out) throw ArtifactError(arguments.outputs + ": " + std::strerror(errno));
    }
    json.open('[', "runs");
    for (size_t at = 0; at < inputs.size(); at += each) {
        set_inputs(executor, inputs.data() + at, arguments.image);
        executor.run();
        json.open('{');
        json.open('[', "crc32");
        for (const uint32_t id : plan.outputs) {
            Bytes values(static_cast<size_t>(planar_bytes(plan.tensors[id])));
            get_planar(executor, id, values.data());
            json.integer(crc32(values));
            out.write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(values.size()));
        }
        json.close(']');
        if (arguments.detect >= 0) print_boxes(json, executor, arguments.detect);
        json.close('}');
    }
    json.close(']');
    out.close();
    if (!arguments.outputs.empty() && !out) throw ArtifactError(arguments.outputs + ": it could not be written");
}

double quantile(std::vector<double> values, double q) {
    std::sort(values.begin(), values.end());
    const double at = q * static_cast<double>(values.size() - 1);
    const auto low = static_cast<size_t>(at);
    const double high = values[std::min(low + 1, values.size() - 1)];
    return values[low] + (at - static_cast<double>(low)) * (high - values[low]);
}

// Slowest over fastest third of the samples in the order of time, by their medians: above 1 the machine slowed down or was shared.
double drift(const std::vector<double>& samples) {
    if (samples.size() < 6) return 1;
    double low = 1e300, high = 0;
    for (int k = 0; k < 3; ++k) {
        const auto n = static_cast<std::ptrdiff_t>(samples.size());
        const double median = quantile({samples.begin() + k * n / 3, samples.begin() + (k + 1) * n / 3}, 0.5);
        low = std::min(low, median);
        high = std::max(high, median);
    }
    return high / low;
}

void time_runs(Json& json, const Executor& executor, const Arguments& arguments) {
    for (const auto start = Clock::now(); ms_since(start) < std::min(30.0, arguments.seconds * 250);) executor.run();     // warm-up
    std::vector<double> samples;
    for (const auto start = Clock::now(); static_cast<long>(samples.size()) < arguments.runs;) {
        const auto before = Clock::now();
        executor.run();
        samples.push_back(ms_since(before));
        if (ms_since(start) > arguments.seconds * 1e3) break;
    }
    json.open('{', "latency");
    json.integer(static_cast<int64_t>(samples.size()), "runs");
    json.number(quantile(samples, 0.5), "median_ms");
    json.number(quantile(samples, 0.25), "q1_ms");
    json.number(quantile(samples, 0.75), "q3_ms");
    json.number(drift(samples), "drift");
    json.close('}');
}

void profile(Json& json, const Executor& executor) {
    constexpr int kRuns = 15;
    std::vector<std::vector<double>> times(kRuns);
    for (auto& run : times) executor.run(&run);
    json.open('[', "layers");
    for (size_t k = 0; k < times[0].size(); ++k) {
        std::vector<double> us;
        for (const auto& run : times) us.push_back(run[k]);
        const Step& step = executor.steps()[k];
        json.open('{');
        json.text(step.instruction->name, "layer");
        json.text(kOpNames[static_cast<size_t>(step.instruction->op)], "op");
        json.text(step.variant, "variant");
        json.number(quantile(us, 0.5), "us");
        json.close('}');
    }
    json.close(']');
}

void print_memory(Json& json, const Executor& executor) {
    const Memory m = executor.memory();
    json.open('{', "memory");
    json.integer(m.file_bytes, "file_bytes");
    json.integer(m.arena_bytes, "arena_bytes");
    json.integer(m.scratch_bytes, "scratch_bytes");
    json.integer(m.prepared_bytes, "prepared_bytes");
    // The kernel counts in KiB; 0 where it does not tell (no Linux, or an emulator's own memory is all there is to see).
    json.integer(std::atoll(value_of("/proc/self/status", "VmHWM").c_str()), "peak_rss_kib");
    json.close('}');
}

int run(const Arguments& arguments) {
    const Bytes file = contents(arguments.model);
    const Executor executor(file, {arguments.variant, {}, arguments.threads});
    const Bytes inputs = inputs_of(executor, arguments);
    Json json;
    json.open('{');
    json.text(cpu::names(), "isa");
    json.text(cpu_name(), "cpu");
    json.integer(arguments.threads, "threads");
    run_all(json, executor, inputs, arguments);
    if (arguments.runs > 0) time_runs(json, executor, arguments);
    if (arguments.profile) profile(json, executor);
    print_memory(json, executor);
    json.close('}');
    std::putchar('\n');
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    for (int k = 1; k < argc; ++k)
        if (std::string_view(argv[k]) == "--help" || std::string_view(argv[k]) == "-h") {
            std::fputs(runner::kUsage, stdout);
            return 0;
        }
    try {
        return run(runner::parse_arguments(argc, argv));
    } catch (const std::exception& fault) {
        std::fflush(stdout);
        std::fprintf(stderr, "edgenas-run: %s\n", fault.what());
        return 2;
    }
}
