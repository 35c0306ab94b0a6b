//! ConnectionBind (RFC 6062, section 5.4): the connection that it comes on becomes the client's end
//! of a peer data connection. That may have been made by another engine.

use std::sync::Arc;

use super::{Request, Success};
use crate::turn::connections::DataConnection;
use crate::turn::reject::{Reject, Why};
use crate::turn::shared::Shared;
use crate::turn::{Action, Actions, ConnectionId, Transport};

/// Binds; `has_allocation` says whether the connection is a control connection.
pub(in crate::turn) fn handle(
    shared: &Arc<Shared>,
    has_allocation: bool,
    request: &Request<'_>,
    actions: &mut Actions,
) -> Result<Success, Reject> {
    // §5.4: not over TCP or TLS => 400. §4.3: a control connection is no data connection.
    if request.five_tuple.transport == Transport::Udp || has_allocation {
        return Err(Why::NoDataConnection.into());
    }
    // §5.4: CONNECTION-ID missing, or of nothing that waits => 400.
    let id = request.control.connection_id().map_err(|_| Reject::from(Why::BadAttribute))?;
    let id = ConnectionId(id.ok_or(Reject::from(Why::ConnectionIdMissing))?);
    let connections = shared.connections.as_ref().ok_or(Reject::from(Why::ConnectionUnknown))?;
    // §4.3: the credentials are those of the control connection, or 441. What waits goes on
    // waiting for whoever has them.
    let (username, now) = (&*request.caller.username, request.now.instant);
    let (socket, connection) = DataConnection::claim(shared, connections, id, username, now)?;
    actions.push(Action::Splice { socket, connection });
    Ok(Success::Done)
}
