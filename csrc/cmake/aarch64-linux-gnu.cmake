# 64-bit Arm Linux with Debian's cross compiler (g++-aarch64-linux-gnu).  cmake -S csrc -DCMAKE_TOOLCHAIN_FILE=.../aarch64-linux-gnu.cmake
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
