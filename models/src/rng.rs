//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
//! SC 2011). A number is a function of its key alone, so it does not depend on batch, order or threads.

/// One block of four words.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let first = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let second = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

/// Folds words into one, so that streams may be named by any number of them.
pub fn fold(seed: u64, words: &[u64]) -> u64 {
    words.iter().fold(seed, |key, &word| {
        let counter = [word as u32, (word >> 32) as u32, 0x666f_6c64, 0];
        let out = philox4x32(counter, [key as u32, (key >> 32) as u32]);
        u64::from(out[0]) | u64::from(out[1]) << 32
    })
}

/// The numbers of one named stream, in order.
#[derive(Debug, Clone)]
pub struct Stream {
    key: [u32; 2],
    block: u64,
    ready: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of a seed and the words that name it.
    pub fn new(seed: u64, words: &[u64]) -> Self {
        let key = fold(seed, words);
        Stream { key: [key as u32, (key >> 32) as u32], block: 0, ready: [0; 4], used: 4 }
    }

    /// The next 32 bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.ready = philox4x32([self.block as u32, (self.block >> 32) as u32, 0, 0], self.key);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.ready[self.used - 1]
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn uniform_f64(&mut self) -> f64 {
        let bits = u64::from(self.bits()) | u64::from(self.bits()) << 32;
        (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Standard normal, by Box and Muller. With libm in Rust: the system's differs from machine to machine.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * libm::log(1.0 - self.uniform_f64())).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Random123's `kat_vectors`.
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn streams_differ_by_each_word_and_have_the_right_moments() {
        let first = |seed, words: &[u64]| Stream::new(seed, words).bits();
        let all = [first(0, &[]), first(1, &[]), first(0, &[0]), first(0, &[1]), first(0, &[0, 1]), first(0, &[1, 0])];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one));
        }
        let mut stream = Stream::new(7, &[3]);
        let normals: Vec<f64> = (0..20_000).map(|_| stream.normal()).collect();
        let mean = normals.iter().sum::<f64>() / 20_000.0;
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        let uniforms: Vec<f32> = (0..20_000).map(|_| stream.uniform()).collect();
        assert!(uniforms.iter().all(|x| (0.0..1.0).contains(x)));
        assert!((uniforms.iter().sum::<f32>() / 20_000.0 - 0.5).abs() < 0.02);
    }
}
