# SPDX-License-Identifier: Apache-2.0
# Every operator is compiled once per instruction set; dispatch.cpp chooses one at the first call.
set(HSR_ISAS base)
set(HSR_FLAGS_base "")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND HSR_ISAS avx2 avx512)
  set(HSR_FLAGS_avx2 -mavx2 -mfma -mf16c)
  set(HSR_FLAGS_avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512)
  # These differ in products of bfloat16 alone.
  set(HSR_PRODUCT_ISAS avx512_bf16 amx)
  set(HSR_FLAGS_avx512_bf16 ${HSR_FLAGS_avx512} -mavx512bf16)
  set(HSR_FLAGS_amx ${HSR_FLAGS_avx512} -mamx-tile -mamx-bf16)
endif()

set(HSR_OBJECTS "")
foreach(isa IN LISTS HSR_ISAS HSR_PRODUCT_ISAS)
  set(sources cpu/matmul.cpp)
  if(isa IN_LIST HSR_ISAS)
    list(APPEND sources cpu/bias_act.cpp cpu/upfirdn2d.cpp cpu/filtered_lrelu.cpp cpu/scale_channels.cpp
      cpu/modulated_conv2d.cpp cpu/feature_loss.cpp cpu/table.cpp)
  endif()
  add_library(hsr_cpu_${isa} OBJECT ${sources})
  target_include_directories(hsr_cpu_${isa} PRIVATE include cpu)
  target_compile_definitions(hsr_cpu_${isa} PRIVATE HSR_ISA=${isa})
  target_compile_options(hsr_cpu_${isa} PRIVATE
    -O3 -Wall -Wextra -fno-math-errno -fno-trapping-math ${HSR_FLAGS_${isa}})
  list(APPEND HSR_OBJECTS $<TARGET_OBJECTS:hsr_cpu_${isa}>)
endforeach()

pybind11_add_module(_cpu MODULE cpu/bindings.cpp cpu/dispatch.cpp cpu/parallel.cpp ${HSR_OBJECTS})
target_include_directories(_cpu PRIVATE include cpu)
target_compile_definitions(_cpu PRIVATE $<$<BOOL:${HSR_FLAGS_avx2}>:HSR_X86>)
target_link_libraries(_cpu PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
