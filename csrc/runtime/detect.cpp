#include "detect.h"

#include <algorithm>

namespace edgenas {
namespace {

constexpr size_t kPreNms = 3000;

struct Candidate {
    float x1, y1, x2, y2, area, score;
    int32_t label;
};

bool suppresses(const Candidate& a, const Candidate& b, float iou_threshold) {
    if (a.label != b.label) return false;
    float width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1), height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
    width = width > 0.0f ? width : 0.0f;
    height = height > 0.0f ? height : 0.0f;
    const float inter = width * height, both = a.area + b.area - inter;
    return inter > iou_threshold * both;
}

// Pairs above the threshold, best first, equal scores by anchor * classes + class.
std::vector<Candidate> candidates(const float* decoded, int64_t anchors, int32_t classes, float score_threshold) {
    std::vector<std::pair<float, int64_t>> order;
    for (int64_t c = 0; c < classes; ++c)
        for (int64_t a = 0; a < anchors; ++a)
            if (const float score = decoded[(4 + c) * anchors + a]; score > score_threshold) order.emplace_back(-score, a * classes + c);
    const size_t keep = std::min(order.size(), kPreNms);
    std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(keep), order.end());
    std::vector<Candidate> found;
    found.reserve(keep);
    for (size_t k = 0; k < keep; ++k) {
        const float* box = decoded + order[k].second / classes;
        Candidate c{
            box[0], box[anchors], box[2 * anchors], box[3 * anchors], 0, -order[k].first, static_cast<int32_t>(order[k].second % classes)};
        c.area = (c.x2 - c.x1) * (c.y2 - c.y1);
        found.push_back(c);
    }
    return found;
}

}  // namespace

Detections nms(const float* decoded, int64_t anchors, int32_t classes, float score_threshold, float iou_threshold, int64_t max_detections) {
    const std::vector<Candidate> all = candidates(decoded, anchors, classes, score_threshold);
    std::vector<const Candidate*> kept;
    for (const Candidate& c : all) {
        if (static_cast<int64_t>(kept.size()) >= max_detections) break;
        const bool free = std::none_of(kept.begin(), kept.end(), [&](const Candidate* k) { return suppresses(*k, c, iou_threshold); });
        if (free) kept.push_back(&c);
    }
    Detections d;
    for (const Candidate* k : kept) {
        d.boxes_xyxy.insert(d.boxes_xyxy.end(), {k->x1, k->y1, k->x2, k->y2});
        d.scores.push_back(k->score);
        d.labels.push_back(k->label);
    }
    return d;
}

}  // namespace edgenas
