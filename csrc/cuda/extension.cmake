# SPDX-License-Identifier: Apache-2.0
# HSR_CUDA_ARCHS lists compute capabilities times 10, separated by commas. There is machine code for each, and PTX for
# the last, which drivers compile for newer GPUs. With HSR_CUDA_STRICT spilled registers and local memory are errors.
set(HSR_CUDA_ARCHS 80,86,89,90,100,120 CACHE STRING "Architectures to compile for")
option(HSR_CUDA_STRICT "Fail on spilled registers and local memory" OFF)

string(REPLACE "," ";" HSR_CUDA_ARCH_LIST "${HSR_CUDA_ARCHS}")
set(CMAKE_CUDA_ARCHITECTURES "")
set(HSR_ARCHITECTURES "")
foreach(arch IN LISTS HSR_CUDA_ARCH_LIST)
  if(NOT arch MATCHES "^[0-9]+$" OR arch LESS 80)
    message(FATAL_ERROR "HSR_CUDA_ARCHS is ${HSR_CUDA_ARCHS}; expected numbers from 80 on, such as 80,90")
  endif()
  list(APPEND CMAKE_CUDA_ARCHITECTURES ${arch}-real)
  string(APPEND HSR_ARCHITECTURES "sm_${arch} ")
endforeach()
list(GET HSR_CUDA_ARCH_LIST -1 ptx_arch)
list(APPEND CMAKE_CUDA_ARCHITECTURES ${ptx_arch}-virtual)
string(APPEND HSR_ARCHITECTURES "and PTX of compute_${ptx_arch}")

set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)

set(HSR_PTXAS -v)
if(HSR_CUDA_STRICT)
  string(APPEND HSR_PTXAS ",-warn-spills,-warn-lmem-usage,-Werror")
endif()

pybind11_add_module(_cuda MODULE
  cuda/bindings.cpp cuda/bind_bias_act.cpp cuda/bind_upfirdn2d.cpp cuda/bind_modulated_conv2d.cpp
  cuda/runtime.cu cuda/bias_act.cu cuda/upfirdn2d.cu cuda/scale_channels.cu cuda/modulated_conv2d.cu
  cuda/modulated_conv2d_fir_epilogue.cu cuda/demodulation.cu)
target_include_directories(_cuda PRIVATE include cuda)
target_compile_definitions(_cuda PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:HSR_ARCHITECTURES=\"${HSR_ARCHITECTURES}\">")
target_compile_options(_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CXX>:-O2 -Wall -Wextra>
  "$<$<COMPILE_LANGUAGE:CUDA>:-O3;-Xptxas;${HSR_PTXAS};-Xcompiler;-Wall>")
target_link_libraries(_cuda PRIVATE Threads::Threads ${CMAKE_DL_LIBS} rt)
