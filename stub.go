package main

type crawlerRunType int
type crawlerResultType int

const (
	crawlerExpired crawlerRunType = iota
	crawlerMetadump
	crawlerMgdump
)
const (
	crawlerOk crawlerResultType = iota
	crawlerRunning
	crawlerBadclass
	crawlerNotstarted
)
const crawlerNowait = false
const lruCrawlerCapRemaining = 1

func lruCrawlerCrawl(s string, k crawlerRunType, c *conn, n uint32) crawlerResultType {
	return crawlerNotstarted
}
func startItemCrawlerThread() int         { settings.lruCrawler.Store(true); return 0 }
func stopItemCrawlerThread(wait bool) int { settings.lruCrawler.Store(false); return 0 }
func lruCrawlerPause()                    {}
func lruCrawlerResume()                   {}
func slabMaintenancePause()               {}
func slabMaintenanceResume()              {}
func startSlabMaintenanceThread()         {}
func initLruCrawler()                     {}
func loggerInit()                         {}

type reassignResultType int

const (
	reassignOk reassignResultType = iota
	reassignRunning
	reassignBadclass
	reassignNospare
	reassignSrcDstSame
)
const slabsReassignAllowEvictions = 1

func slabsReassign(src, dst, flags int) reassignResultType { return reassignNospare }
