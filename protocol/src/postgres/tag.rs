//! The first byte of every message after start-up, as two closed enums: an unknown byte is an error with a name, never a silent default.
//!
//! Source: PostgreSQL documentation, "Message Formats".

/// A message from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrontendTag {
    /// `Q`: a simple query.
    Query,
    /// `P`: prepare a statement.
    Parse,
    /// `B`: bind a statement to a portal.
    Bind,
    /// `D`: describe a statement or portal.
    Describe,
    /// `E`: run a portal.
    Execute,
    /// `C`: close a statement or portal.
    Close,
    /// `S`: end of an extended batch.
    Sync,
    /// `H`: send what you have.
    Flush,
    /// `F`: call a function by its oid.
    FunctionCall,
    /// `d`: COPY data.
    CopyData,
    /// `c`: COPY is complete.
    CopyDone,
    /// `f`: COPY failed.
    CopyFail,
    /// `p`: a password or SASL message, legal during login only.
    Password,
    /// `X`: goodbye.
    Terminate,
}

impl FrontendTag {
    /// The tag that this byte stands for.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'Q' => Self::Query,
            b'P' => Self::Parse,
            b'B' => Self::Bind,
            b'D' => Self::Describe,
            b'E' => Self::Execute,
            b'C' => Self::Close,
            b'S' => Self::Sync,
            b'H' => Self::Flush,
            b'F' => Self::FunctionCall,
            b'd' => Self::CopyData,
            b'c' => Self::CopyDone,
            b'f' => Self::CopyFail,
            b'p' => Self::Password,
            b'X' => Self::Terminate,
            _ => return None,
        })
    }
}

/// A message from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendTag {
    /// `1`
    ParseComplete,
    /// `2`
    BindComplete,
    /// `3`
    CloseComplete,
    /// `A`
    NotificationResponse,
    /// `C`
    CommandComplete,
    /// `D`
    DataRow,
    /// `d`
    CopyData,
    /// `c`
    CopyDone,
    /// `E`
    ErrorResponse,
    /// `G`
    CopyInResponse,
    /// `H`
    CopyOutResponse,
    /// `W`
    CopyBothResponse,
    /// `I`
    EmptyQueryResponse,
    /// `K`
    BackendKeyData,
    /// `N`
    NoticeResponse,
    /// `n`
    NoData,
    /// `R`
    Authentication,
    /// `S`
    ParameterStatus,
    /// `s`
    PortalSuspended,
    /// `T`
    RowDescription,
    /// `t`
    ParameterDescription,
    /// `V`
    FunctionCallResponse,
    /// `v`
    NegotiateProtocolVersion,
    /// `Z`
    ReadyForQuery,
}

impl BackendTag {
    /// The tag that this byte stands for.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'1' => Self::ParseComplete,
            b'2' => Self::BindComplete,
            b'3' => Self::CloseComplete,
            b'A' => Self::NotificationResponse,
            b'C' => Self::CommandComplete,
            b'D' => Self::DataRow,
            b'd' => Self::CopyData,
            b'c' => Self::CopyDone,
            b'E' => Self::ErrorResponse,
            b'G' => Self::CopyInResponse,
            b'H' => Self::CopyOutResponse,
            b'W' => Self::CopyBothResponse,
            b'I' => Self::EmptyQueryResponse,
            b'K' => Self::BackendKeyData,
            b'N' => Self::NoticeResponse,
            b'n' => Self::NoData,
            b'R' => Self::Authentication,
            b'S' => Self::ParameterStatus,
            b's' => Self::PortalSuspended,
            b'T' => Self::RowDescription,
            b't' => Self::ParameterDescription,
            b'V' => Self::FunctionCallResponse,
            b'v' => Self::NegotiateProtocolVersion,
            b'Z' => Self::ReadyForQuery,
            _ => return None,
        })
    }
}
