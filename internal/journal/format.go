package journal

import (
	"encoding/binary"
	"hash/crc32"
)

// A segment file has a fixed size: a header, frames, zeros. A frame is one group commit, whole or not at all; it holds
// records. Numbers are little endian.
//
//	segment header (32 bytes): magic "tierkitj", version u32, 0 u32, epoch u64, 0 u32, CRC32C u32
//	frame header   (48 bytes): magic u32, length u32, epoch u64, number u64, durable u64, next u64, 0 u32,
//	               CRC32C u32 of the header before it and the records
//	record         (13 bytes): kind u8, length u32, seq u64, then the payload
//
// The epoch is random for each life of a file, so that nothing of a recycled file's former life passes for a frame.
// Frames are numbered through the whole log; durable is the number below which all were on disk when the frame was
// written: a hole below a later frame's durable is damage, another one is a write that was cut off. next is a sequence
// number that no entry had yet.
const (
	segmentMagic  = "tierkitj"
	formatVersion = 1
	segmentHeader = 32
	frameHeader   = 48
	frameMagic    = 0x746a_6b01
	frameAlign    = 8
	recordHeader  = 13
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type kind uint8

const (
	kindEntry   kind = 1 + iota // a new entry, or an old one moved on
	kindSettled                 // of no more use
	kindNote                    // what is noted with an entry
)

func putSegmentHeader(b []byte, epoch uint64) {
	clear(b[:segmentHeader])
	copy(b, segmentMagic)
	le := binary.LittleEndian
	le.PutUint32(b[8:], formatVersion)
	le.PutUint64(b[16:], epoch)
	le.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
}

func parseSegmentHeader(b []byte) (epoch uint64, ok bool) {
	le := binary.LittleEndian
	if len(b) < segmentHeader || string(b[:8]) != segmentMagic || le.Uint32(b[8:]) != formatVersion ||
		le.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli) {
		return 0, false
	}
	return le.Uint64(b[16:]), true
}

type frame struct {
	number, durable, next uint64
	records               []byte
}

// put fills in the header of a frame whose records stand in b behind the room for it.
func (f frame) put(b []byte, epoch uint64) {
	le := binary.LittleEndian
	clear(b[:frameHeader])
	le.PutUint32(b, frameMagic)
	le.PutUint32(b[4:], uint32(len(b)-frameHeader))
	le.PutUint64(b[8:], epoch)
	le.PutUint64(b[16:], f.number)
	le.PutUint64(b[24:], f.durable)
	le.PutUint64(b[32:], f.next)
	le.PutUint32(b[44:], frameSum(b))
}

func frameSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:44], castagnoli), castagnoli, b[frameHeader:])
}

// parseFrame returns the frame at the beginning of b and its length with padding; ok is false when there is none that
// passes its checksum.
func parseFrame(b []byte, epoch uint64) (f frame, size int64, ok bool) {
	le := binary.LittleEndian
	if len(b) < frameHeader || le.Uint32(b) != frameMagic || le.Uint64(b[8:]) != epoch {
		return f, 0, false
	}
	n := int64(le.Uint32(b[4:])) + frameHeader
	if n > int64(len(b)) || le.Uint32(b[44:]) != frameSum(b[:n]) {
		return f, 0, false
	}
	f = frame{number: le.Uint64(b[16:]), durable: le.Uint64(b[24:]), next: le.Uint64(b[32:]), records: b[frameHeader:n]}
	return f, align(n), true
}

func align(n int64) int64 { return (n + frameAlign - 1) &^ (frameAlign - 1) }

func appendRecord(b []byte, k kind, seq uint64, payload []byte) []byte {
	b = append(b, byte(k))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.LittleEndian.AppendUint64(b, seq)
	return append(b, payload...)
}

// parseRecord returns the first record of b and its length; ok is false when b is no whole record.
func parseRecord(b []byte) (k kind, seq uint64, payload []byte, size int, ok bool) {
	if len(b) < recordHeader {
		return 0, 0, nil, 0, false
	}
	n := int64(binary.LittleEndian.Uint32(b[1:])) + recordHeader
	k = kind(b[0])
	if n > int64(len(b)) || k < kindEntry || k > kindNote {
		return 0, 0, nil, 0, false
	}
	return k, binary.LittleEndian.Uint64(b[5:]), b[recordHeader:n], int(n), true
}
