use lmrs_kernels::adamw::{AdamW, norm};
use lmrs_kernels::team;

use crate::{assert_close, each_level, single, values};

#[test]
fn steps_follow_the_algorithm() {
    let adamw = AdamW {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
    };
    // More than a thread takes at once; Miri is slow.
    let most = if cfg!(miri) { 60 } else { 5000 };
    for n in [0, 1, 16, 37, most] {
        each_level(|level| {
            let mut p = values(n, 1);
            let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
            let mut got = single(&p);
            let (mut got_m, mut got_v) = (vec![0.0; n], vec![0.0; n]);
            for step in 1..6 {
                let g = values(n, 10 + step);
                let before = std::mem::replace(&mut got, vec![f32::NAN; n]);
                let moments = [&mut *got_m, &mut *got_v];
                adamw.step(step, &before, &mut got, &single(&g), 0.5, moments);
                for i in 0..n {
                    let g = 0.5 * g[i];
                    p[i] -= 0.01 * 0.1 * p[i];
                    m[i] = 0.9 * m[i] + 0.1 * g;
                    v[i] = 0.99 * v[i] + 0.01 * g * g;
                    let (m, v) = (
                        m[i] / (1.0 - 0.9_f64.powf(step as f64)),
                        v[i] / (1.0 - 0.99_f64.powf(step as f64)),
                    );
                    p[i] -= 0.01 * m / (v.sqrt() + 1e-8);
                }
            }
            assert_close(&got, &p, 5e-7, &format!("{level:?} parameter"));
            assert_close(&got_m, &m, 5e-7, &format!("{level:?} mean"));
            assert_close(&got_v, &v, 5e-7, &format!("{level:?} square"));
        });
    }
}

#[test]
fn the_norm_is_exact_and_notices_what_is_not_finite() {
    let x = values(if cfg!(miri) { 201 } else { 200_001 }, 4);
    let x32 = single(&x);
    let want = x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let parts: Vec<&[f32]> = vec![&x32[..7], &[], &x32[7..]];
    let got = norm(&parts);
    assert!((got - want).abs() < 1e-12 * want, "{got} {want}");
    for threads in [1, 3] {
        assert_eq!(got, team::with_threads(threads, || norm(&parts)));
    }
    assert!(norm::<f32>(&[]) == 0.0);
    assert!(norm(&[&[1.0, f32::NAN]]).is_nan());
    assert!(norm(&[&[1.0, f32::INFINITY]]).is_infinite());
    assert!(norm(&[&[f32::MAX, f32::MAX]]).is_finite());
}
