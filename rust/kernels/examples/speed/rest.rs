//! What is bound by memory, and what is neither.

use std::sync::atomic::{AtomicUsize, Ordering};

use lmrs_kernels::activation::{Activation, activate};
use lmrs_kernels::adamw::{self, AdamW};
use lmrs_kernels::norm::rms_norm;
use lmrs_kernels::rope::rope;
use lmrs_kernels::softmax::exp_scaled;
use lmrs_kernels::{Rows, RowsMut, team};

use crate::{Report, values};

pub fn report(report: &Report) {
    let (rows, width) = (1024, 576);
    let (x, w) = (values(rows * width), values(width));
    let mut out = vec![0.0; rows * width];
    let bytes = 8 * rows * width;
    report.bytes("rms norm 1024x576", bytes, || {
        rms_norm(
            Rows::new(&x, rows, width),
            &w,
            1e-5,
            RowsMut::new(&mut out, rows, width),
        );
    });
    for kind in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        report.bytes(&format!("{kind:?} 1024x576"), bytes, || {
            activate(
                kind,
                Rows::new(&x, rows, width),
                RowsMut::new(&mut out, rows, width),
            );
        });
    }
    let positions: Vec<i32> = (0..rows as i32).collect();
    report.bytes("rope 1024x9x64", bytes, || {
        let to = RowsMut::new(&mut out, rows, width);
        rope(
            Rows::new(&x, rows, width),
            &positions,
            &w[..32],
            64,
            1.0,
            to,
        );
    });
    let n = 16 << 20;
    let (p, g, mut m, mut v) = (values(n), values(n), vec![0.0; n], vec![0.0; n]);
    let mut after = vec![0.0; n];
    let adamw = AdamW {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    report.bytes("AdamW 16M", 28 * n, || {
        adamw.step(3, &p, &mut after, &g, 1.0, [&mut m, &mut v]);
    });
    report.bytes("norm of gradients 16M", 4 * n, || {
        adamw::norm(&[&g]);
    });
    if report.threads == 2 {
        // Each region waits for both threads, so a thousand take a thousand hand-overs: microseconds each in the last column.
        report.line(
            "1000 regions that two threads meet in",
            1e3,
            "  ",
            1e3,
            || {
                for _ in 0..1000 {
                    let met = AtomicUsize::new(0);
                    team::parallel(2, |_| {
                        met.fetch_add(1, Ordering::AcqRel);
                        while met.load(Ordering::Acquire) < 2 {
                            std::hint::spin_loop();
                        }
                    });
                }
            },
        );
    }
    // Each number x becomes -exp(x): they stay between -1 and 0.
    let mut logits = values(1 << 12);
    report.line("exp 4K", (1 << 12) as f64, "G/s", 1.0, || {
        exp_scaled(&mut logits, 0.0, -1.0);
    });
}
