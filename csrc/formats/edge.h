// The .edge file: one compiled network. Little-endian throughout, no pointer, no padding that is not drawn here.
//
//   byte 0         32                     32 + 12 * sections
//       | Header  | Section[sections]    | the sections' bytes, each at a multiple of 8, zeros between ...       |
//
//   order    sections in the table and in the file: tensors, instructions, operands, interface, names, metadata, then data
//   data     weights, epilogue arrays and tables; a blob that several instructions use is stored once
//   writer   nas/runtime/artifact.py          reader  csrc/runtime/parse.cpp
#pragma once
#include <cstdint>

namespace edgenas::edge {

constexpr char kMagic[8] = {'E', 'D', 'G', 'E', 'N', 'A', 'S', '\n'};
constexpr uint32_t kVersion = 2;
constexpr uint32_t kNoData = 0xFFFFFFFF;

//   byte  0 .. 7   8 .. 11   12 .. 15                          16 .. 19    20 .. 23       24 .. 27   28 .. 31
//        | magic  | version | CRC-32 of bytes 16 .. file_size | file_size | arena_bytes  | sections | 0       |
struct Header {
    char magic[8];
    uint32_t version, checksum, file_size, arena_bytes, sections, reserved;
};
static_assert(sizeof(Header) == 32);

enum class Kind : uint32_t { kTensors = 1, kInstructions, kOperands, kInterface, kNames, kMetadata, kData };
constexpr uint32_t kSingles = 6;            // the kinds before kData, once each

//   byte  0 .. 3   4 .. 7   8 .. 11
//        | kind   | offset | size   |
struct Section {
    uint32_t kind, offset, size;
};
static_assert(sizeof(Section) == 12);

//   byte  0 .. 3   4 .. 5      6       7      8 .. 13      14 .. 15     16 .. 19   20 .. 23
//        | name   | name len | dtype | bits  | C, H, W u16 | zero_point | scale f32 | arena offset |
//   name     offset into the names section, printable ASCII
//   dtype    0 u8 codes in C4, 1 f32 planar
struct TensorRecord {
    uint32_t name;
    uint16_t name_size;
    uint8_t dtype, bits;
    uint16_t c, h, w, zero_point;
    float scale;
    uint32_t offset;
};
static_assert(sizeof(TensorRecord) == 24);

enum class Op : uint8_t {
    kConv2d, kConvTranspose2d, kLinear, kAdd, kMul, kConcat, kSlice, kUpsample, kMaxpool, kGlobalAvgpool,
    kRequantize, kQuantize, kDequantize, kActivation, kSoftmax, kMatmul, kLayernorm, kDecode, kCount
};

// 0 where there is none; else 1 + the edgenas::Epilogue.
enum class EpilogueCode : uint8_t { kNone, kLinear, kTable, kThreshold, kFloat, kCount };

//   byte  0    1          2            3       4 .. 7   8 .. 9     10 .. 11   12 .. 15   16 .. 31       32 .. 47
//        | op | epilogue | activation | wbits | name   | name len | inputs   | operands | attrs i32[4] | data u32[4]
//   byte  48 .. 49   50 .. 51  52 .. 53  54 .. 55
//        | shift    | lo      | hi      | 0     |
//   operands  index into the operands section (u32 tensor ids): `inputs` inputs, then the one output
//   attrs     conv2d kernel, stride, padding, groups  add multiplier_a, multiplier_b  slice start, stop  upsample factor
//             maxpool kernel, stride, padding  softmax axis  layernorm axis, eps (float bits)  matmul transpose_b
//             decode bins, classes; the rest 0
//   data      numbers of data sections, kNoData where absent
//             0  packed weights | f32 weights | requantize: 256-byte table | layernorm: gamma | decode: strides u32
//             1..3  linear: multiplier i32, bias i64   table: the same, table u8   threshold: thresholds i32, sign i8
//                   float: scale f32, offset f32   no epilogue: 1 is the f32 bias, or beta
//   table     of an epilogue, as runs of equal entries: a byte is (kind << 6 | length - 1); kind 0 repeats the entry before (0 at
//             first), 1 is one more, 2 one less, 3 takes the byte that follows. The 256 entries of a requantize stand as they are
struct InstructionRecord {
    uint8_t op, epilogue, activation, wbits;
    uint32_t name;
    uint16_t name_size, inputs;
    uint32_t operands;
    int32_t attrs[4];
    uint32_t data[4];
    uint16_t shift, lo, hi, reserved;
};
static_assert(sizeof(InstructionRecord) == 56);

// interface section: u32 count of inputs, u32 count of outputs, then their tensor ids, u32 each.
// metadata section: UTF-8 JSON; the engine hands it out as it is.
// Packed weights: csrc/kernels/conv2d/kernel.h; conv_transpose2d rows are [C_in][2][2], linear rows [C][H][W].

}  // namespace edgenas::edge
