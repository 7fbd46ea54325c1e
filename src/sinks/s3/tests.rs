//! The body of an object, built in every way, against the lines that went into it.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::object::{Object, ObjectBuilder, Parts, Segment};
use super::settings::Compression;
use crate::event::LineKind;
use crate::sinks::testing::{record, record_at};
use crate::sinks::{Body, BodyBuilder, Pieces, Record};

/// A line in pieces of a size.
struct Cut(Vec<u8>, usize);

impl Pieces for Cut {
    fn piece(&self, index: usize) -> std::io::Result<Option<Bytes>> {
        Ok(self.0.chunks(self.1).nth(index).map(Bytes::copy_from_slice))
    }
}

/// A line that does not compress.
fn noise(random: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+/";
    (0..length).map(|_| DIGITS[random.usize(..64)]).collect()
}

fn oversize(number: u64, line: &[u8]) -> Record {
    Record {
        body: Body::Pieces(Arc::new(Cut(line.to_vec(), 100_000))),
        ..record(number, LineKind::Oversize, line)
    }
}

fn inflated(compression: Compression, body: &[u8]) -> Vec<u8> {
    match compression {
        Compression::Zstd => zstd::decode_all(body).expect("zstd frames"),
        Compression::Gzip => {
            let mut out = Vec::new();
            flate2::read::MultiGzDecoder::new(body)
                .read_to_end(&mut out)
                .expect("gzip members");
            out
        }
        Compression::None => body.to_vec(),
    }
}

/// The compressed body, in parts of a size.
fn sent(object: &Object, part_bytes: usize) -> Vec<Bytes> {
    let mut parts = Parts::new(object, part_bytes);
    std::iter::from_fn(|| parts.next().expect("readable")).collect()
}

const ALL: [Compression; 3] = [Compression::Zstd, Compression::Gzip, Compression::None];

#[test]
fn whatever_goes_in_comes_out_line_by_line_and_no_more_than_the_room_is_held() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let compression = ALL[random.usize(..3)];
        let room = random.u64(50_000..400_000);
        let mut builder = ObjectBuilder::new(compression, room);
        let mut expected = Vec::new();
        let mut longest = 0;
        let count = random.u64(1..30);
        for number in 0..count {
            let large = random.u8(..5) == 0;
            let length = random.usize(..if large { 600_000 } else { 3_000 });
            let line = match random.bool() {
                true => noise(&mut random, length),
                false => vec![b'a'; length],
            };
            if large {
                builder.push(&oversize(number, &line)).unwrap();
            } else {
                builder
                    .push(&record(number, LineKind::Event, &line))
                    .unwrap();
                longest = longest.max(length);
            }
            expected.extend_from_slice(&line);
            expected.push(b'\n');
            if builder.bytes() >= room {
                break;
            }
        }
        let told = builder.bytes();
        let object = builder.end().unwrap();
        let held: usize = object
            .segments
            .iter()
            .map(|segment| match segment {
                Segment::Held(bytes) => bytes.len(),
                Segment::Streamed(_) => 0,
            })
            .sum();
        let slack = longest as u64 + (256 << 10);
        assert!(
            held as u64 <= room + slack,
            "seed {seed}: {held} held, {room} allowed"
        );
        let parts = sent(&object, 64 << 10);
        let body = parts.concat();
        assert!(inflated(compression, &body) == expected, "seed {seed}");
        assert_eq!(
            object.sha256,
            <[u8; 32]>::from(Sha256::digest(&expected)),
            "seed {seed}"
        );
        assert_eq!(object.length, expected.len() as u64, "seed {seed}");
        assert!(
            parts
                .iter()
                .rev()
                .skip(1)
                .all(|part| part.len() == 64 << 10),
            "seed {seed}: all parts but the last are of one size"
        );
        match object.whole() {
            Some(whole) => {
                assert!(whole == body, "seed {seed}");
                let difference = told.abs_diff(whole.len() as u64);
                assert!(
                    difference <= 160 << 10,
                    "seed {seed}: {told} told, {} are",
                    whole.len()
                );
            }
            None => assert!(
                told >= room,
                "seed {seed}: {told} told of a body that is not held"
            ),
        }
    }
}

#[test]
fn equal_records_make_equal_bodies_however_they_are_built() {
    let mut random = fastrand::Rng::with_seed(1);
    let records: Vec<Record> = (5..25)
        .map(|number| record(number, LineKind::Event, &noise(&mut random, 2_000)))
        .collect();
    for compression in ALL {
        let one = Object::of(&records, compression, 1 << 20).unwrap();
        let other = Object::of(&records, compression, 1 << 20).unwrap();
        assert!(
            one.whole()
                .is_some_and(|whole| Some(whole) == other.whole())
        );
        assert_eq!((one.first, one.last, one.count), (5, 24, 20));
    }
}

#[test]
fn what_is_known_of_an_object_is_of_its_first_and_last_record() {
    let mut first = record_at(7, LineKind::Event, b"{}", 4096);
    first.head.time_us = Some(1_767_225_600_000_000);
    let last = record_at(11, LineKind::Malformed, b"torn", 9000);
    let object = Object::of(&[first, last], Compression::None, 1 << 20).unwrap();
    assert_eq!((object.first, object.last, object.count), (7, 11, 2));
    assert_eq!(object.time_us, 1_767_225_600_000_000);
    let generation = crate::event::Generation::of_first_line(b"first line").short();
    assert_eq!(
        object.first_position.to_string(),
        format!("{generation}:4096")
    );
    assert_eq!(
        object.last_position.to_string(),
        format!("{generation}:9000")
    );
    assert_eq!(object.whole().as_deref(), Some(&b"{}\ntorn\n"[..]));
    assert!(Object::of(&[], Compression::None, 1 << 20).is_err());
}
