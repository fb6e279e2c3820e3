// Writes one JSON object to stdout, value by value; commas put themselves.
#pragma once
#include <cinttypes>
#include <cstdio>
#include <string_view>

namespace edgenas::runner {

class Json {
  public:
    void open(char bracket, std::string_view key = {}) {
        name(key);
        std::putchar(bracket);
        first_ = true;
    }
    void close(char bracket) {
        std::putchar(bracket);
        first_ = false;
    }
    void number(double value, std::string_view key = {}) {
        name(key);
        std::printf("%.9g", value);
    }
    void integer(int64_t value, std::string_view key = {}) {
        name(key);
        std::printf("%" PRId64, value);
    }
    void text(std::string_view value, std::string_view key = {}) {
        name(key);
        string(value);
    }

  private:
    void name(std::string_view key) {
        if (!first_) std::putchar(',');
        first_ = false;
        if (key.empty()) return;
        string(key);
        std::putchar(':');
    }

    // Bytes outside of printable ASCII come as a question mark, so that a device's own name cannot break the JSON.
    static void string(std::string_view value) {
        std::putchar('"');
        for (const char c : value) {
            if (c == '"' || c == '\\') std::putchar('\\');
            std::putchar(c >= ' ' && c <= '~' ? c : '?');
        }
        std::putchar('"');
    }

    bool first_ = true;
};

}  // namespace edgenas::runner
