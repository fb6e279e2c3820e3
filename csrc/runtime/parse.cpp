#include <bit>
#include <cstring>

#include "plan.h"

static_assert(std::endian::native == std::endian::little, "the .edge format is read in place on little-endian machines");

namespace edgenas {
namespace {

using edge::Kind;
using Bytes = std::span<const std::byte>;

[[noreturn]] void broken(const std::string& what) { throw ArtifactError("artifact: " + what); }

template <typename T>
std::span<const T> records(Bytes bytes, const char* what) {
    if (bytes.size() % sizeof(T) != 0)
        broken(std::string(what) + " section of " + std::to_string(bytes.size()) + " bytes is not a multiple of " +
               std::to_string(sizeof(T)));
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

edge::Header header(Bytes file) {
    edge::Header h;
    if (file.size() < sizeof h) broken(std::to_string(file.size()) + " bytes are too few for a header of " + std::to_string(sizeof h));
    std::memcpy(&h, file.data(), sizeof h);
    if (std::memcmp(h.magic, edge::kMagic, sizeof h.magic) != 0) broken("it does not start with the magic of a .edge file");
    if (h.version != edge::kVersion)
        broken("version " + std::to_string(h.version) + "; this runtime reads version " + std::to_string(edge::kVersion));
    if (h.file_size != file.size())
        broken("the header says " + std::to_string(h.file_size) + " bytes, the file has " + std::to_string(file.size()) +
               "; it is truncated or has grown");
    if (file.size() > static_cast<size_t>(kMaxBytes))
        broken(std::to_string(file.size()) + " bytes pass the limit of " + std::to_string(kMaxBytes));
    if (h.checksum != crc32(file.subspan(16))) broken("the checksum does not match; the file is damaged");
    if (h.arena_bytes > kMaxBytes)
        broken("an arena of " + std::to_string(h.arena_bytes) + " bytes passes the limit of " + std::to_string(kMaxBytes));
    if (h.reserved != 0) broken("a reserved field of the header is not zero");
    return h;
}

// The sections' bytes, in the order of the table, which is the order of the file.
std::vector<Bytes> sections(Bytes file, const edge::Header& h) {
    const uint64_t table_end = sizeof h + uint64_t{h.sections} * sizeof(edge::Section);
    if (h.sections < edge::kSingles || table_end > file.size())
        broken("a table of " + std::to_string(h.sections) + " sections does not fit the file");
    std::vector<Bytes> found;
    found.reserve(h.sections);
    uint64_t end = table_end;
    for (uint32_t k = 0; k < h.sections; ++k) {
        edge::Section s;
        std::memcpy(&s, file.data() + sizeof h + k * sizeof s, sizeof s);
        const std::string where = "section " + std::to_string(k);
        if (s.kind != (k < edge::kSingles ? k + 1 : static_cast<uint32_t>(Kind::kData)))
            broken(where + " has kind " + std::to_string(s.kind));
        if (s.offset % 8 != 0 || s.offset < end || s.offset - end >= 8)
            broken(where + " starts at " + std::to_string(s.offset) + ", not at the first multiple of 8 from " + std::to_string(end));
        if (uint64_t{s.offset} + s.size > file.size()) broken(where + " ends past the file");
        for (uint64_t b = end; b < s.offset; ++b)
            if (file[b] != std::byte{0}) broken(where + " has bytes other than zero before it");
        found.push_back(file.subspan(s.offset, s.size));
        end = uint64_t{s.offset} + s.size;
    }
    if (end != file.size()) broken(std::to_string(file.size() - end) + " bytes follow the last section");
    return found;
}

std::string_view name(Bytes names, uint32_t offset, uint32_t size) {
    if (uint64_t{offset} + size > names.size()) broken("a name lies outside the names section");
    const std::string_view text{reinterpret_cast<const char*>(names.data()) + offset, size};
    if (size > kMaxName) broken("a name of " + std::to_string(size) + " characters; at most " + std::to_string(kMaxName));
    for (const char c : text)
        if (c < ' ' || c > '~') broken("a name holds characters other than printable ASCII");
    return text;
}

Tensor tensor(const edge::TensorRecord& r, Bytes names) {
    Tensor t{name(names, r.name, r.name_size), r.dtype == 1, r.bits, r.c, r.h, r.w, r.zero_point, r.scale, r.offset, 0};
    if (r.dtype > 1) broken("tensor '" + std::string(t.name) + "' has dtype " + std::to_string(r.dtype));
    t.bytes = t.f32 ? 4 * t.elements() : (t.c + 3) / 4 * 4 * t.pixels();
    return t;
}

// The entries that runs stand for (formats/edge.h).
std::vector<std::byte> unpacked(Bytes runs, const std::string& where) {
    std::vector<std::byte> table;
    int32_t value = 0;
    for (size_t at = 0; at < runs.size(); ++at) {
        const auto run = static_cast<uint32_t>(runs[at]);
        switch (run >> 6) {
            case 0: break;
            case 1: ++value; break;
            case 2: --value; break;
            default: value = ++at < runs.size() ? static_cast<int32_t>(runs[at]) : -1;
        }
        if (value < 0 || value > 255) broken(where + ": the runs of its table leave 0 .. 255 or end early");
        table.insert(table.end(), (run & 63) + 1, static_cast<std::byte>(value));
        if (table.size() > static_cast<size_t>(kMaxTable)) broken(where + ": its table passes " + std::to_string(kMaxTable) + " entries");
    }
    return table;
}

Instruction instruction(const edge::InstructionRecord& r, const std::vector<Bytes>& all, std::span<const uint32_t> operands, Plan& plan) {
    Instruction i{};
    i.name = name(all[4], r.name, r.name_size);
    const std::string where = "instruction '" + std::string(i.name) + "'";
    if (r.op >= static_cast<uint8_t>(edge::Op::kCount)) broken(where + ": unknown operator " + std::to_string(r.op));
    if (r.epilogue >= static_cast<uint8_t>(edge::EpilogueCode::kCount)) broken(where + ": unknown epilogue " + std::to_string(r.epilogue));
    if (r.activation > static_cast<uint8_t>(Activation::kGelu)) broken(where + ": unknown activation " + std::to_string(r.activation));
    if (r.inputs == 0 || r.inputs > kMaxInputs)
        broken(where + ": " + std::to_string(r.inputs) + " inputs; 1 to " + std::to_string(kMaxInputs));
    if (uint64_t{r.operands} + r.inputs + 1 > operands.size()) broken(where + ": its operands lie outside their section");
    if (r.reserved != 0) broken(where + ": a reserved field is not zero");
    i.op = static_cast<edge::Op>(r.op);
    i.epilogue = static_cast<edge::EpilogueCode>(r.epilogue);
    i.activation = static_cast<Activation>(r.activation);
    i.wbits = r.wbits;
    i.inputs = operands.subspan(r.operands, r.inputs);
    i.output = operands[r.operands + r.inputs];
    std::memcpy(i.attrs, r.attrs, sizeof i.attrs);
    for (int k = 0; k < 4; ++k) {
        if (r.data[k] == edge::kNoData) continue;
        if (r.data[k] >= all.size() - edge::kSingles) broken(where + ": data section " + std::to_string(r.data[k]) + " does not exist");
        i.data[k] = all[edge::kSingles + r.data[k]];
    }
    if (i.epilogue == edge::EpilogueCode::kTable && r.data[3] != edge::kNoData) {
        if (!plan.tables.contains(r.data[3])) plan.tables[r.data[3]] = unpacked(i.data[3], where);
        i.data[3] = plan.tables[r.data[3]];
    }
    i.shift = r.shift, i.lo = r.lo, i.hi = r.hi;
    return i;
}

}  // namespace

uint32_t crc32(Bytes bytes) {
    static const auto table = [] {
        std::vector<uint32_t> t(256);
        for (uint32_t n = 0; n < 256; ++n) {
            uint32_t c = n;
            for (int k = 0; k < 8; ++k) c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
            t[n] = c;
        }
        return t;
    }();
    uint32_t c = 0xFFFFFFFFu;
    for (const std::byte b : bytes) c = table[(c ^ static_cast<uint8_t>(b)) & 0xFF] ^ (c >> 8);
    return ~c;
}

Plan parse(Bytes file) {
    const edge::Header h = header(file);
    const std::vector<Bytes> all = sections(file, h);
    const auto tensors = records<edge::TensorRecord>(all[0], "tensors");
    const auto instructions = records<edge::InstructionRecord>(all[1], "instructions");
    const auto operands = records<uint32_t>(all[2], "operands");
    const auto interface = records<uint32_t>(all[3], "interface");
    if (tensors.size() > kMaxTensors) broken(std::to_string(tensors.size()) + " tensors; at most " + std::to_string(kMaxTensors));
    if (instructions.size() > kMaxInstructions)
        broken(std::to_string(instructions.size()) + " instructions; at most " + std::to_string(kMaxInstructions));
    if (interface.size() < 2 || uint64_t{interface[0]} + interface[1] + 2 != interface.size())
        broken("the interface section does not hold the inputs and outputs it counts");
    Plan plan;
    plan.arena_bytes = h.arena_bytes;
    for (const auto& r : tensors) plan.tensors.push_back(tensor(r, all[4]));
    for (const auto& r : instructions) plan.instructions.push_back(instruction(r, all, operands, plan));
    plan.inputs = interface.subspan(2, interface[0]);
    plan.outputs = interface.subspan(2 + interface[0], interface[1]);
    plan.metadata = {reinterpret_cast<const char*>(all[5].data()), all[5].size()};
    return plan;
}

}  // namespace edgenas
