// From decoded boxes and scores to detections: the float32 operations of nas/runtime/detect.py in the same order, so both
// give the same bits.
#pragma once
#include <cstdint>
#include <vector>

namespace edgenas {

struct Detections {
    std::vector<float> boxes_xyxy;          // (n, 4)
    std::vector<float> scores;              // (n), best first
    std::vector<int32_t> labels;            // (n)
};

// decoded: (4 + classes, anchors), planar: x1, y1, x2, y2 in input pixels, then the scores.
Detections nms(const float* decoded, int64_t anchors, int32_t classes, float score_threshold, float iou_threshold, int64_t max_detections);

}  // namespace edgenas
