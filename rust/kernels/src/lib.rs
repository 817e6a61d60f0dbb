//! Numeric kernels of lmrs for every instruction set, chosen at run time
