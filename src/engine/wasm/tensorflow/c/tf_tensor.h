#pragma once
#include "kernels.h"
