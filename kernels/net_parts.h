#pragma once
#include "tiles_cpu.h"
#include "tree_cpu.h"
// What all nets that are compiled whole (net_cpu.h) share: it doesn't depend on their widths, and is compiled once.

BPX_VECTOR_BYTES_ENTRY
