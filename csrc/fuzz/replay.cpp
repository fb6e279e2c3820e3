// Runs files under the sanitizers, for machines without libFuzzer: replay MUTATIONS FILE ...
// Each file runs as it is by every kernel variant, alone and by threads that share every step, then its prefixes (all of them
// below 8 KiB), then MUTATIONS seeded mutations of it are tried; with 0 MUTATIONS only the first.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>

#include "one.h"

namespace {

std::vector<std::byte> contents(const char* path) {
    std::ifstream in(path, std::ios::binary);
    std::vector<std::byte> bytes;
    for (std::istreambuf_iterator<char> k(in), end; k != end; ++k) bytes.push_back(static_cast<std::byte>(*k));
    return bytes;
}

std::vector<std::byte> mutated(std::vector<std::byte> file, std::mt19937& random) {
    for (uint32_t n = 1 + random() % 4; n > 0; --n) {
        const bool early = random() % 2 == 0;       // half of the changes fall on the records before the weights
        const size_t at = random() % (early ? std::min<size_t>(file.size(), 1500) : file.size());
        file[at] = random() % 2 == 0 ? static_cast<std::byte>(random()) : file[at] ^ static_cast<std::byte>(1 << random() % 8);
    }
    return file;
}

}  // namespace

int main(int argc, char** argv) {
    long accepted = 0, refused = 0;
    std::vector<std::string> names;
    for (const char* op : {"conv2d", "conv2d_f32", "add"})
        for (const std::string& name : edgenas::variants(op)) names.push_back(name);
    for (int k = 2; k < argc; ++k) {
        const std::vector<std::byte> file = contents(argv[k]);
        for (const std::string& name : names)
            for (const int32_t threads : {1, 2, 3})
                if (!edgenas::fuzz::load_and_run(file, {name, {}, threads, 1})) {
                    std::fprintf(stderr, "%s: refused as it is\n", argv[k]);
                    return 1;
                }
        const long mutations = std::atol(argv[1]);
        for (size_t n = 0; mutations > 0 && n < file.size(); n += 1 + file.size() / 8192) {
            std::vector<std::byte> prefix(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(n));
            edgenas::fuzz::seal(prefix);
            if (edgenas::fuzz::load_and_run(prefix, {})) {
                std::fprintf(stderr, "%s: its first %zu bytes were accepted\n", argv[k], n);
                return 1;
            }
        }
        std::mt19937 random(7);
        for (long m = mutations; m > 0; --m) {
            std::vector<std::byte> other = mutated(file, random);
            edgenas::fuzz::seal(other);
            ++(edgenas::fuzz::load_and_run(other, {names[static_cast<size_t>(m) % names.size()]}) ? accepted : refused);
        }
    }
    std::printf("%d files; of their mutations %ld ran, %ld were refused\n", argc - 2, accepted, refused);
    return 0;
}
