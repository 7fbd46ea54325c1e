//! Real audit files, where they are present beside the project or at `AUDITSHIP_CORPUS`.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn folder() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/corpus");
    let folder = std::env::var_os("AUDITSHIP_CORPUS").map_or_else(|| beside.into(), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("SKIPPED: no real audit files at {}", folder.display());
    None
}

/// The uncompressed content; `None` for a `.gz` that is cut.
fn read(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    if path.extension().is_none_or(|extension| extension != "gz") {
        return Some(bytes);
    }
    let mut content = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
    std::io::Read::read_to_end(&mut decoder, &mut content).ok()?;
    Some(content)
}

/// Every line of every whole file is an event, byte for byte; returns how many files and lines.
fn check_all(folder: &Path) -> (usize, usize) {
    let (mut files, mut lines) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(content) = read(&path) else {
            continue;
        };
        let mut framer = REAL.framer(0);
        let mut together = Vec::new();
        for chunk in content.chunks(100_000) {
            framer.push(chunk, &mut |framed| {
                let Framed::Line {
                    kind: LineKind::Event,
                    bytes,
                    time_us: Some(_),
                    ..
                } = framed
                else {
                    panic!("{}: {framed:?}", path.display());
                };
                together.extend_from_slice(bytes);
                together.push(b'\n');
                lines += 1;
                true
            });
        }
        assert_eq!(framer.pending(), 0, "{}", path.display());
        assert!(together == content, "{}", path.display());
        files += 1;
    }
    (files, lines)
}

#[test]
fn every_line_of_a_rotated_set_is_an_event() {
    if let Some(folder) = folder() {
        assert_eq!(
            check_all(&folder.join("kube-apiserver-1.37.2/rotated")),
            (23, 8063)
        );
    }
}

#[test]
fn every_line_of_a_set_left_by_a_kill_is_an_event() {
    if let Some(folder) = folder() {
        assert_eq!(
            check_all(&folder.join("kube-apiserver-1.37.2/crashed")),
            (3, 1087)
        );
    }
}
