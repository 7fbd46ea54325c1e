//! Bodies as S3 gives them.

use crate::fakes::http_server::Answer;

/// An error.
pub(super) fn error(status: u16, code: &str, message: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message><RequestId>FAKE</RequestId></Error>"
    );
    xml(status, body)
}

/// Any XML.
pub(super) fn xml(status: u16, body: String) -> Answer {
    Answer {
        content_type: Some("application/xml"),
        ..Answer::json(status, body)
    }
}
