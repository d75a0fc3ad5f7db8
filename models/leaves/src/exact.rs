//! Sine, exponential and their kin from additions and multiplications alone.
//!
//! The standard library takes these from the platform, where their last bit differs, and a picture must be
//! the same on every machine. Accurate to about 1e-5, which no 8-bit picture can show.

use std::f32::consts::{FRAC_PI_2, PI, TAU};

/// The largest whole number not above `x`, for `x` within the range of `i32`.
pub(crate) fn floor(x: f32) -> f32 {
    let whole = (x as i32) as f32;
    if x < whole { whole - 1.0 } else { whole }
}

/// Sine of an angle in radians.
pub(crate) fn sin(x: f32) -> f32 {
    let turns = x / TAU;
    let t = turns - floor(turns + 0.5);
    let folded = if t > 0.25 {
        0.5 - t
    } else if t < -0.25 {
        -0.5 - t
    } else {
        t
    };
    let y = folded * TAU;
    let q = y * y;
    y * (1.0 + q * (-1.0 / 6.0 + q * (1.0 / 120.0 + q * (-1.0 / 5040.0 + q / 362_880.0))))
}

/// Cosine of an angle in radians.
pub(crate) fn cos(x: f32) -> f32 {
    sin(x + FRAC_PI_2)
}

/// The unit vector at an angle in radians.
pub(crate) fn direction(angle: f32) -> (f32, f32) {
    (cos(angle), sin(angle))
}

/// Two to the power `x`, between the smallest and largest normal numbers.
pub(crate) fn exp2(x: f32) -> f32 {
    let x = x.clamp(-126.0, 126.0);
    let whole = floor(x);
    let t = (x - whole) * std::f32::consts::LN_2;
    let part = 1.0 + t * (1.0 + t * (0.5 + t * (1.0 / 6.0 + t * (1.0 / 24.0 + t * (1.0 / 120.0 + t / 720.0)))));
    f32::from_bits(((whole as i32 + 127) as u32) << 23) * part
}

/// The bell `exp(-x²/2)`.
pub(crate) fn bell(x: f32) -> f32 {
    exp2(-0.5 * std::f32::consts::LOG2_E * x * x)
}

/// `x` to the power `p`, for `x` of 0 or more.
pub(crate) fn pow(x: f32, p: f32) -> f32 {
    if x < f32::MIN_POSITIVE {
        return 0.0;
    }
    let bits = x.to_bits();
    let exponent = (bits >> 23) as f32 - 127.0;
    let mantissa = f32::from_bits((bits & 0x007f_ffff) | 0x3f80_0000);
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let q = s * s;
    let ln = 2.0 * s * (1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q / 11.0)))));
    exp2(p * (exponent + ln * std::f32::consts::LOG2_E))
}

/// Length of a vector.
pub(crate) fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// Angle of a vector in radians, `-PI..=PI`.
///
/// # Source
///
/// Abramowitz and Stegun, *Handbook of Mathematical Functions*, 4.4.49.
pub(crate) fn angle(x: f32, y: f32) -> f32 {
    let (ax, ay) = (x.abs(), y.abs());
    let r = ax.min(ay) / ax.max(ay).max(f32::MIN_POSITIVE);
    let q = r * r;
    let small = r * (0.999_866 + q * (-0.330_299_5 + q * (0.180_141 + q * (-0.085_133 + q * 0.020_835_1))));
    let first = if ay > ax { FRAC_PI_2 - small } else { small };
    let half = if x < 0.0 { PI - first } else { first };
    if y < 0.0 { -half } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_follows_the_platforms() {
        for i in -400..400 {
            let x = i as f32 * 0.05;
            assert!((sin(x) - x.sin()).abs() < 2e-5, "sin {x}");
            assert!((cos(x) - x.cos()).abs() < 2e-5, "cos {x}");
            assert!((exp2(x) / x.exp2() - 1.0).abs() < 2e-5, "exp2 {x}");
            assert!((bell(x) - (-0.5 * x * x).exp()).abs() < 2e-5, "bell {x}");
            let positive = x.abs() + 0.01;
            assert!((pow(positive, 0.7) / positive.powf(0.7) - 1.0).abs() < 2e-5, "pow {positive}");
            for y in [-3.0, -0.2, 0.3, 5.0] {
                assert!((angle(x, y) - f32::atan2(y, x)).abs() < 2e-5, "angle {x} {y}");
            }
        }
    }

    #[test]
    fn extreme_arguments_stay_finite() {
        for x in [f32::MAX, f32::MIN, 0.0, f32::MIN_POSITIVE] {
            assert!(exp2(x).is_finite() && bell(x).is_finite() && angle(x, 0.0).is_finite());
        }
        assert_eq!(pow(0.0, 0.5), 0.0);
    }
}
