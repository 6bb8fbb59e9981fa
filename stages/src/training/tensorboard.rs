//! Event files as TensorBoard reads them: `TFRecord` frames (tensorflow/core/lib/io/record_writer.h) of `Event` messages
//! (tensorflow/core/util/event.proto) that hold scalars.

use crate::records::CurvePoint;

/// TensorBoard looks for `tfevents` in the names of files.
pub(super) const FILE: &str = "events.out.tfevents.palinode";

/// The curve as an event file. The same curve gives the same bytes: an event's time, which TensorBoard shows beside its
/// step, is the step, in seconds.
pub(super) fn events(curve: &[CurvePoint]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut version = double(1, 0.0);
    // `Event.file_version`: without it, TensorBoard warns.
    version.extend(bytes(3, b"brain.Event:2"));
    frame(&mut file, &version);
    for point in curve {
        let scalars = [
            ("loss/train", Some(point.loss)),
            ("loss/validation", point.validation_loss),
            ("learning_rate", Some(point.learning_rate)),
            ("gradient_norm", Some(point.gradient_norm)),
        ];
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let Some(value) = value else { continue };
            // `Summary.Value.tag` and `.simple_value`
            let mut scalar = bytes(1, tag.as_bytes());
            scalar.push(2 << 3 | FIXED32);
            scalar.extend((value as f32).to_le_bytes());
            summary.extend(bytes(1, &scalar));
        }
        // `Event.wall_time`, `.step`, `.summary`
        let mut event = double(1, point.step as f64);
        event.push(2 << 3 | VARINT);
        varint(&mut event, point.step as u64);
        event.extend(bytes(5, &summary));
        frame(&mut file, &event);
    }
    file
}

// Wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

fn double(field: u8, value: f64) -> Vec<u8> {
    let mut out = vec![field << 3 | FIXED64];
    out.extend(value.to_le_bytes());
    out
}

fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![field << 3 | LENGTH];
    varint(&mut out, value.len() as u64);
    out.extend(value);
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Length, its checksum, the data, their checksum.
fn frame(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(data);
    file.extend(masked(data).to_le_bytes());
}

/// A checksum that may itself be summed (tensorflow/core/lib/hash/crc32c.h).
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected. Bit by bit: an event has a hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    !data.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4.
    #[test]
    fn checksums_are_castagnolis() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    /// Takes `count` bytes off the front.
    fn take<'a>(data: &mut &'a [u8], count: usize) -> &'a [u8] {
        let (front, rest) = data.split_at(count);
        *data = rest;
        front
    }

    fn read_varint(data: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = take(data, 1)[0];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    /// Fields of a message: number, and bytes or value.
    fn fields(mut data: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut fields = Vec::new();
        while !data.is_empty() {
            let tag = take(&mut data, 1)[0];
            let value = match tag & 7 {
                VARINT => read_varint(&mut data).to_le_bytes().to_vec(),
                FIXED64 => take(&mut data, 8).to_vec(),
                FIXED32 => take(&mut data, 4).to_vec(),
                _ => {
                    let length = read_varint(&mut data) as usize;
                    take(&mut data, length).to_vec()
                }
            };
            fields.push((tag >> 3, value));
        }
        fields
    }

    fn point(step: usize, validation_loss: Option<f64>) -> CurvePoint {
        CurvePoint { step, loss: 2.5, learning_rate: 1e-3, gradient_norm: 0.75, tokens: 9, validation_loss }
    }

    #[test]
    fn events_read_back() {
        let file = events(&[point(1, None), point(300, Some(3.25))]);
        let mut rest = &file[..];
        let mut read = Vec::new();
        while !rest.is_empty() {
            let length = take(&mut rest, 8);
            assert_eq!(take(&mut rest, 4), masked(length).to_le_bytes());
            let data = take(&mut rest, u64::from_le_bytes(length.try_into().unwrap()) as usize);
            assert_eq!(take(&mut rest, 4), masked(data).to_le_bytes());
            read.push(fields(data));
        }
        assert_eq!(read[0][1], (3, b"brain.Event:2".to_vec()));
        let scalars = |event: &[(u8, Vec<u8>)]| {
            assert_eq!((event[0].0, event[1].0, event[2].0), (1, 2, 5));
            let step = u64::from_le_bytes(event[1].1.clone().try_into().unwrap());
            assert_eq!(f64::from_le_bytes(event[0].1.clone().try_into().unwrap()), step as f64);
            let scalar = |(_, value): (u8, Vec<u8>)| {
                let [(1, tag), (2, value)] = &fields(&value)[..] else { panic!("{value:?}") };
                let value = f32::from_le_bytes(value.clone().try_into().unwrap());
                format!("{} {value}", String::from_utf8_lossy(tag))
            };
            let values = fields(&event[2].1).into_iter().map(scalar).collect::<Vec<_>>().join(", ");
            format!("{step}: {values}")
        };
        insta::assert_snapshot!(scalars(&read[1]), @"1: loss/train 2.5, learning_rate 0.001, gradient_norm 0.75");
        insta::assert_snapshot!(
            scalars(&read[2]),
            @"300: loss/train 2.5, loss/validation 3.25, learning_rate 0.001, gradient_norm 0.75"
        );
    }
}
