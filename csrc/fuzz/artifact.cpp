// libFuzzer target over the parser, the validator and, for tiny plans, every kernel. Corpus: csrc/fuzz/corpus.
#include "one.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::vector<std::byte> file(size);
    if (size != 0) std::memcpy(file.data(), data, size);
    edgenas::fuzz::seal(file);
    edgenas::fuzz::load_and_run(file, {});
    return 0;
}
