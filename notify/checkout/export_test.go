package checkout

// Open counts the streams that wait for their secret to be confirmed, and those that are confirmed.
func (h *Hub) Open() (unconfirmed, confirmed int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.pending), len(h.streams) - len(h.pending)
}
